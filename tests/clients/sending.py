"""Postmark's official Python client, postmarker and django-anymail, unmodified, send through a running node and get their errors.

Arguments: root URL without a slash at its end, token of a server that may send from declared.example.
"""

import sys
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import django
import postmark.sync
from django.conf import settings
from postmark.exceptions import PostmarkAPIException
from postmarker.core import PostmarkClient
from postmarker.exceptions import ClientError

url, token = sys.argv[1:3]
PLAIN = {"From": "Orders <orders@declared.example>", "To": "Ada <ada@example.com>", "Subject": "py plain", "TextBody": "Hi."}


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (PostmarkAPIException, ClientError) as error:
        assert error.error_code == code, (error.error_code, str(error))
    else:
        sys.exit(f"{call} was not refused with {code}")


def official():
    with postmark.sync.ServerClient(token, base_url=url, retries=0) as server:
        sent = server.outbound.send(dict(PLAIN))
        assert (sent.to, sent.error_code, sent.message, len(sent.message_id)) == (PLAIN["To"], 0, "OK", 36), sent
        whole = dict(PLAIN, Subject="Grüße – py", HtmlBody="<p>Grüße</p>", Cc="cy@example.com", Tag="tag", TrackLinks="TextOnly", Metadata={"order": "881"},
                     Headers=[{"Name": "X-Py", "Value": "yes"}], Attachments=[{"Name": "ä.txt", "Content": "eA==", "ContentType": "text/plain"}])
        assert server.outbound.send(whole).success
        assert [item.error_code for item in server.outbound.send_batch([dict(PLAIN), whole])] == [0, 0]
        refused(300, server.outbound.send, dict(PLAIN, To="World"))
        refused(400, server.outbound.send, dict(PLAIN, From="a@example.net"))
        refused(1235, server.outbound.send, dict(PLAIN, MessageStream="none"))


def community():
    client = PostmarkClient(server_token=token, root_api_url=url)
    sent = client.emails.send(From=PLAIN["From"], To=["Ada <ada@example.com>", "bo@example.com"], Subject="postmarker", TextBody="Hi.", Headers={"X-Py": "1"},
                              Attachments=[("a.txt", "eA==", "text/plain")])
    assert sent["Message"] == "OK", sent
    mime = MIMEMultipart()
    mime["From"], mime["To"], mime["Subject"] = "orders@declared.example", "ada@example.com", "postmarker MIME"
    mime.attach(MIMEText("text", "plain"))
    image = MIMEImage(b"\x89PNG", "png", name="image.png")
    image.add_header("Content-ID", "<image1@example.org>")
    mime.attach(image)
    assert client.emails.send(mime)["ErrorCode"] == 0
    batch = client.emails.send_batch(PLAIN, dict(PLAIN, To="World"))
    assert [item["ErrorCode"] for item in batch] == [0, 300], batch
    refused(300, client.emails.send, **dict(PLAIN, To="World"))
    refused(10, PostmarkClient(server_token="wrong", root_api_url=url).emails.send, **PLAIN)


def anymail():
    settings.configure(EMAIL_BACKEND="anymail.backends.postmark.EmailBackend", USE_TZ=True, INSTALLED_APPS=["anymail"], DEFAULT_CHARSET="utf-8",
                       ANYMAIL={"POSTMARK_SERVER_TOKEN": token, "POSTMARK_API_URL": url + "/"})
    django.setup()
    from anymail.exceptions import AnymailAPIError, AnymailRecipientsRefused
    from django.core.mail import EmailMultiAlternatives

    def message(**changes):
        return EmailMultiAlternatives(**{**dict(subject="anymail – ü", body="text", from_email="orders@declared.example", to=["Ada <ada@example.com>"]), **changes})

    mail = message(cc=["cy@example.com"], bcc=["dan@example.com"], reply_to=["help@declared.example"], headers={"X-Any": "1"})
    mail.attach_alternative("<p>html</p>", "text/html")
    mail.attach("a.csv", "a,b\n1,2\n", "text/csv")
    mail.tags, mail.metadata, mail.track_opens = ["tag"], {"order": "881"}, True
    assert mail.send() == 1
    status = mail.anymail_status
    assert status.status == {"sent"} and all(r.message_id for r in status.recipients.values()), status
    several = message(to=["ada@example.com", "bo@example.com"])
    several.merge_metadata = {"ada@example.com": {"n": "1"}, "bo@example.com": {"n": "2"}}
    assert several.send() == 1 and len(several.anymail_status.message_id) == 2, several.anymail_status
    for wrong, kind in [(dict(from_email="a@example.net"), AnymailAPIError), (dict(to=["invalid@localhost"]), AnymailRecipientsRefused)]:
        try:
            message(**wrong).send()
        except kind:
            continue
        sys.exit(f"{wrong} was sent")


official()
community()
anymail()
