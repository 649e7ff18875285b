"""Postmark's official Python client, and postmarker, unmodified, against a running node: bounces.

Arguments: root URL without a slash at its end, server token, id of the message whose only recipient, gone@py.example, bounced and is
suppressed for it.
"""

import sys
from datetime import datetime, timedelta, timezone

import postmark.sync
from postmark.exceptions import PostmarkAPIException
from postmark.models.bounces import BounceType
from postmarker.core import PostmarkClient
from postmarker.exceptions import ClientError

url, token, message_id = sys.argv[1:4]


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except PostmarkAPIException as error:
        assert error.error_code == code, (error.error_code, str(error))
    except ClientError as error:
        assert error.error_code == code, (error.error_code, str(error))
    else:
        sys.exit(f"{call} was not refused with {code}")


other = PostmarkClient(server_token=token, root_api_url=url + "/")
[bounce] = other.bounces.all(messageID=message_id, inactive=True)
assert (bounce.Type, bounce.Email, bounce.Tag) == ("HardBounce", "gone@py.example", "welcome"), bounce
assert bounce.dump == "550 5.1.1 no such user\r\n"
assert other.bounces.get(bounce.ID).Content == bounce.dump
assert other.bounces.tags == ["welcome"], other.bounces.tags
assert other.bounces.deliverystats["InactiveMails"] == 1
refused(1001, other.bounces.get, 1)

with postmark.sync.ServerClient(token, base_url=url, retries=0) as server:
    found = server.bounces.list(type=BounceType.HARD_BOUNCE, email_filter="gone", message_stream="outbound")
    assert found.total == 1, found
    [one] = found.items
    assert (one.id, one.message_id, one.sender, one.subject) == (bounce.ID, message_id, "orders@declared.example", "Grüße"), one
    assert one.inactive and one.can_activate and one.dump_available, one
    assert abs(one.bounced_at - datetime.now(timezone.utc)) < timedelta(minutes=1), one
    assert server.bounces.get(one.id).content == bounce.dump
    assert server.bounces.get_dump(one.id).body == bounce.dump
    assert server.bounces.list(inactive=False).total == 0
    activated = server.bounces.activate(one.id)
    assert activated.message == "OK" and not activated.bounce.inactive, activated
    refused(1001, server.bounces.get_dump, 1)

assert bounce.activate() == "OK" and bounce.Inactive is False
