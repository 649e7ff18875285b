"""Postmark's official Python client, and postmarker, unmodified, against a running node: what was sent.

Arguments: root URL without a slash at its end, server token, an address whose mail bounces.
"""

import sys
import time
from datetime import datetime, timedelta, timezone

import postmark.sync
from postmark.exceptions import PostmarkAPIException
from postmarker.core import PostmarkClient
from postmarker.exceptions import ClientError

url, token, gone = sys.argv[1:4]


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except PostmarkAPIException as error:
        assert error.error_code == code, (error.error_code, str(error))
    except ClientError as error:
        assert error.error_code == code, (error.error_code, str(error))
    else:
        sys.exit(f"{call} was not refused with {code}")


def eventually(look):
    for _ in range(200):
        found = look()
        if found:
            return found
        time.sleep(0.05)
    sys.exit("in vain")


other = PostmarkClient(server_token=token, root_api_url=url + "/")
sent = other.emails.send(
    From="orders@declared.example",
    To=["Ada <ada@py.example>", gone],
    Subject="Your parcel",
    HtmlBody="<p>Html.",
    Tag="parcel",
    Metadata={"order": "881"},
)
message_id = sent["MessageID"]
assert other.messages.outbound.get(message_id).HtmlBody == "<p>Html."
assert "<p>Html." in other.messages.outbound.get_dump(message_id)

[message] = eventually(lambda: other.messages.outbound.all(recipient="ada@py.example", tag="parcel", status="sent"))
assert message.MessageID == message_id and message.Recipients == ["ada@py.example", gone], message
assert message.get_dump() == other.messages.outbound.get_dump(message_id)
assert message.opens()["Opens"] == [], message.opens()
assert other.messages.outbound.all(fromemail="else@declared.example") == []
assert list(other.messages.outbound.opens.all()) == []
refused(701, other.messages.outbound.get, "21895802-5d50-442b-b039-27cf5b462c54")

with postmark.sync.ServerClient(token, base_url=url, retries=0) as server:
    found = server.outbound.list(
        recipient="ada@py.example",
        from_email="orders@declared.example",
        tag="parcel",
        status="sent",
        subject="parcel",
        metadata={"order": "881"},
        message_stream="outbound",
        from_date=datetime.now(timezone.utc) - timedelta(minutes=2),
        to_date=datetime.now(timezone.utc) + timedelta(minutes=2),
    )
    assert found.total == 1, found
    [one] = found.items
    assert (one.message_id, one.subject, one.status.value, one.sandboxed) == (message_id, "Your parcel", "Sent", False), one
    assert abs(one.received_at - datetime.now(timezone.utc)) < timedelta(minutes=1), one

    def whole_story():
        details = server.outbound.get(message_id)
        kinds = sorted((event.type.value, event.recipient) for event in details.message_events)
        wanted = [("Bounced", gone), ("Delivered", "ada@py.example"), ("SubscriptionChanged", gone)]
        return details if kinds == wanted else None

    details = eventually(whole_story)
    assert details.html_body == "<p>Html." and not details.text_body, details
    for event in details.message_events:
        if event.type.value == "Bounced":
            assert event.details.summary == "smtp;550 5.1.1 no such user", event
            assert server.bounces.get(int(event.details.bounce_id)).email == gone
        if event.type.value == "SubscriptionChanged":
            assert event.details.suppress_sending is True and event.details.origin == "Recipient", event
    assert server.outbound.get_dump(message_id).body == other.messages.outbound.get_dump(message_id)
    assert server.outbound.list_opens().total == 0
    assert server.outbound.list_clicks().total == 0
    assert server.outbound.list_message_opens(message_id).total == 0
    refused(701, server.outbound.get, "21895802-5d50-442b-b039-27cf5b462c54")
    refused(1226, server.outbound.list, message_stream="nowhere")
