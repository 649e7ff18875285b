"""What the node has sent to a webhook, read by django-anymail as it reads Postmark's.

Arguments: the bodies of a delivery and of a hard bounce, and of a change of suppressions, in any order.
"""

import json
import sys

import django
from django.conf import settings

settings.configure(ANYMAIL={}, SECRET_KEY="x")
django.setup()

from anymail.webhooks.postmark import PostmarkTrackingWebhookView  # noqa: E402

view = PostmarkTrackingWebhookView()
events = {}
for text in sys.argv[1:]:
    body = json.loads(text)
    events[body["RecordType"]] = view.esp_to_anymail_event(body)

delivered, bounced, changed = events["Delivery"], events["Bounce"], events["SubscriptionChange"]
assert (delivered.event_type, delivered.recipient) == ("delivered", "ada@example.com"), delivered
assert (delivered.tags, delivered.metadata) == (["welcome"], {"order": "881"}), delivered
assert delivered.timestamp is not None and delivered.message_id, delivered
assert (bounced.event_type, bounced.recipient) == ("bounced", "gone@example.com"), bounced
assert bounced.reject_reason == "bounced", bounced.reject_reason
assert bounced.mta_response == "smtp;550 5.1.1 no such user", bounced.mta_response
assert bounced.event_id.isdigit(), bounced.event_id
assert (changed.event_type, changed.recipient) == ("bounced", "gone@example.com"), changed
