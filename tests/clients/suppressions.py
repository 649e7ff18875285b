"""Postmark's official Python client, unmodified, against a running node: suppressions, and what they do to mail.

Arguments: root URL without a slash at its end, token of a server that may send from declared.example, and in which the operator has
suppressed complained@js.example.
"""

import sys
from datetime import datetime, timedelta, timezone

import postmark.sync
from postmark.exceptions import InactiveRecipientException, PostmarkAPIException
from postmark.models.suppressions import SuppressionOrigin, SuppressionReason

url, token = sys.argv[1:3]
EMAIL = "Nothing+Create@py.example"
MAIL = {"From": "orders@declared.example", "To": EMAIL, "Subject": "py", "TextBody": "Hi."}


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except PostmarkAPIException as error:
        assert error.error_code == code, (error.error_code, str(error))
    else:
        sys.exit(f"{call} was not refused with {code}")


with postmark.sync.ServerClient(token, base_url=url, retries=0) as server:
    made = server.suppressions.create("outbound", [EMAIL, "no address"])
    assert [(m.status, m.message) for m in made] == [("Suppressed", None), ("Failed", "An invalid email address was provided.")], made
    found = server.suppressions.dump(
        "outbound", suppression_reason=SuppressionReason.MANUAL_SUPPRESSION, origin=SuppressionOrigin.CUSTOMER, email_address=EMAIL.upper()
    )
    assert [f.email_address for f in found] == [EMAIL], found
    assert abs(found[0].created_at - datetime.now(timezone.utc)) < timedelta(minutes=1), found
    assert len(server.suppressions.dump("outbound")) == 2
    try:
        server.outbound.send(dict(MAIL))
    except InactiveRecipientException as error:
        assert error.error_code == 406 and EMAIL in str(error), error
    else:
        sys.exit("a suppressed recipient got mail")
    gone = server.suppressions.delete("outbound", [EMAIL, "complained@js.example"])
    assert [g.status for g in gone] == ["Deleted", "Failed"], gone
    assert server.outbound.send(dict(MAIL)).success
    refused(1226, server.suppressions.create, "nowhere", [EMAIL])
