"""Postmark's official Python client and postmarker, unmodified, against a running node: domains and sender signatures.

Arguments: root URL without a slash at its end, account token.
"""

import sys

import postmark.sync
from postmark.exceptions import PostmarkAPIException
from postmarker.core import PostmarkClient
from postmarker.exceptions import ClientError

url, account_token = sys.argv[1:3]


def refused(code, call, *args, **kwargs):
    """Both libraries tell Postmark's error code, each in its own way."""
    try:
        call(*args, **kwargs)
    except (PostmarkAPIException, ClientError) as error:
        assert error.error_code == code, (error.error_code, str(error))
    else:
        sys.exit(f"{call} was not refused with {code}")


def official():
    with postmark.sync.AccountClient(account_token, base_url=url, retries=0) as account:
        domain = account.domain.create("py.example", return_path_domain="pm.py.example")
        assert domain.dkim_update_status == "Pending" and domain.dkim_pending_host.endswith("pm._domainkey.py.example"), domain
        assert account.domain.get(domain.id) == domain
        assert account.domain.edit(domain.id, return_path_domain="b.py.example").return_path_domain == "b.py.example"
        assert account.domain.verify_dkim(domain.id).dkim_verified is False
        assert account.domain.verify_return_path(domain.id).return_path_domain_verified is False
        assert account.domain.verify_spf(domain.id).spf_verified is False
        refused(505, account.domain.rotate_dkim, domain.id)
        refused(512, account.domain.create, "py.example")
        refused(503, account.domain.create, "hotmail.com")
        assert any(item.id == domain.id for item in account.domain.list(count=100, offset=0).items)
        sender = account.signature.create("ada@py.example", "Ada", confirmation_personal_note="hello")
        assert (sender.confirmed, sender.dkim_pending_host) == (False, domain.dkim_pending_host), sender
        assert account.signature.get(sender.id) == sender
        assert account.signature.edit(sender.id, name="Ada L.").name == "Ada L."
        assert account.signature.list().total == 1
        account.signature.resend_confirmation(sender.id)
        refused(505, account.signature.request_new_dkim, sender.id)
        refused(504, account.signature.create, "ADA@py.example", "Ada")
        refused(501, account.signature.get, 99999)
        account.signature.delete(sender.id)
        account.domain.delete(domain.id)
        refused(510, account.domain.get, domain.id)
    with postmark.sync.AccountClient("wrong", base_url=url, retries=0) as stranger:
        refused(10, stranger.domain.get, 1)


def third_party():
    client = PostmarkClient(server_token="x", account_token=account_token, root_api_url=url + "/")
    domain = client.domains.create("postmarker.example", ReturnPathDomain="pm.postmarker.example")
    assert domain.DKIMPendingTextValue.startswith("k=rsa; p="), domain
    assert domain.get().Name == "postmarker.example"
    domain.edit(ReturnPathDomain="b.postmarker.example")
    assert client.domains.get(domain.ID).ReturnPathDomain == "b.postmarker.example"
    assert domain.verifyspf()["SPFVerified"] is False
    assert domain.verifydkim()["DKIMVerified"] is False
    assert domain.verifyreturnpath()["ReturnPathDomainVerified"] is False
    refused(505, domain.rotatedkim)
    assert "postmarker.example" in [d.Name for d in client.domains.all()]
    sender = client.senders.create("bo@postmarker.example", "Bo")
    sender.edit(Name="Bo 2")
    assert client.senders.get(sender.ID).Name == "Bo 2"
    assert sender.resend() == "Confirmation email for Sender Signature bo@postmarker.example was re-sent."
    assert [s.EmailAddress for s in client.senders.all()] == ["bo@postmarker.example"]
    refused(505, sender.requestnewdkim)
    assert sender.delete() == "Signature bo@postmarker.example removed."
    assert domain.delete() == "Domain postmarker.example removed."


official()
third_party()
