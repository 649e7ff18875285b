"""Postmark's official Python client, unmodified, against a running node: webhooks.

Arguments: root URL without a slash at its end, server token, a URL that may be a hook.
"""

import sys

import postmark.sync
from postmark.exceptions import PostmarkAPIException

url, token, hook = sys.argv[1:4]

with postmark.sync.ServerClient(token, base_url=url, retries=0) as server:
    made = server.webhooks.create(
        hook,
        message_stream="broadcast",
        http_auth={"Username": "user", "Password": "pass"},
        http_headers=[{"Name": "X-Test", "Value": "1"}],
        triggers={"Delivery": {"Enabled": True}},
    )
    assert (made.url, made.message_stream) == (hook, "broadcast"), made
    assert made.triggers.delivery.enabled and not made.triggers.bounce.enabled, made
    assert (made.http_auth.username, made.http_headers[0].name) == ("user", "X-Test"), made
    assert server.webhooks.get(made.id) == made
    assert server.webhooks.list() == [made]
    assert server.webhooks.list(message_stream="outbound") == []
    edited = server.webhooks.edit(made.id, triggers={"Bounce": {"Enabled": True, "IncludeContent": True}})
    assert edited.triggers.delivery.enabled and edited.triggers.bounce.include_content, edited
    gone = server.webhooks.delete(made.id)
    assert (gone.error_code, gone.message) == (0, f"Webhook {made.id} removed."), gone
    try:
        server.webhooks.get(made.id)
    except PostmarkAPIException as error:
        assert error.error_code == 1352, error
    else:
        sys.exit("a deleted webhook is still there")
