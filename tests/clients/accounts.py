"""Postmark's official Python client and postmarker, unmodified, against a running node: servers and message streams.

Arguments: root URL without a slash at its end, account token, a server token that is good for one request.
"""

import sys

import postmark.sync
from postmark.exceptions import InvalidAPIKeyException, PostmarkAPIException, RateLimitException
from postmark.models.servers import DeliveryType, ServerColor, TrackLinks
from postmark.models.streams import MessageStreamType
from postmarker.core import PostmarkClient
from postmarker.exceptions import ClientError

url, account_token, limited_token = sys.argv[1:4]


def refused(code, call, *args, **kwargs):
    """Both libraries tell Postmark's error code, each in its own way."""
    try:
        call(*args, **kwargs)
    except PostmarkAPIException as error:
        assert error.error_code == code, (error.error_code, str(error))
    except ClientError as error:
        assert error.error_code == code, (error.error_code, str(error))
    else:
        sys.exit(f"{call} was not refused with {code}")


def official():
    with postmark.sync.AccountClient(account_token, base_url=url, retries=0) as account:
        made = account.server.create("py shop", color=ServerColor.GREEN, delivery_type=DeliveryType.LIVE, track_links=TrackLinks.NONE)
        assert made.name == "py shop" and len(made.api_tokens) == 1, made
        edited = account.server.edit(made.id, name="py shop 2", inbound_spam_threshold=5)
        assert (edited.name, edited.inbound_spam_threshold) == ("py shop 2", 5), edited
        assert account.server.get(made.id) == edited
        listed = account.server.list(count=10, offset=0, name="py shop")
        assert listed.total == 1, listed
        refused(603, account.server.create, "py shop 2")
        refused(601, account.server.get, 99999)
        with postmark.sync.ServerClient(made.api_tokens[0], base_url=url, retries=0) as server:
            assert server.server.get().id == made.id
            assert server.stream.list().total == 3
            news = server.stream.create("py-news", "News", MessageStreamType.BROADCASTS)
            assert news.archived_at is None, news
            assert server.stream.edit("py-news", name="Weekly").name == "Weekly"
            assert server.stream.archive("py-news").expected_purge_date is not None
            assert server.stream.unarchive("py-news").archived_at is None
            refused(1226, server.stream.get, "none")
        account.server.delete(made.id)
    with postmark.sync.AccountClient("wrong", base_url=url, retries=0) as stranger:
        refused(10, stranger.server.get, 1)


def classes():
    """The official library's own classes of errors."""
    with postmark.sync.ServerClient(limited_token, base_url=url, retries=0) as limited:
        assert limited.server.get().name == "limited"
        for kind, call in [(RateLimitException, limited.server.get), (InvalidAPIKeyException, stranger_server)]:
            try:
                call()
            except kind:
                continue
            sys.exit(f"{call} was not refused with {kind.__name__}")


def stranger_server():
    with postmark.sync.ServerClient(account_token, base_url=url, retries=0) as stranger:
        stranger.server.get()


def third_party():
    with postmark.sync.AccountClient(account_token, base_url=url, retries=0) as account:
        made = account.server.create("postmarker")
        client = PostmarkClient(server_token=made.api_tokens[0], account_token=account_token, root_api_url=url + "/")
        server = client.server.get()
        assert server.Name == "postmarker", server
        server.edit(Name="postmarker 2")
        assert client.server.get().Name == "postmarker 2"
        account.server.delete(made.id)
        refused(10, client.server.get)


official()
classes()
third_party()
