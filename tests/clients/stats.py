"""Postmark's official Python client, and postmarker, unmodified, against a running node: statistics.

Arguments: root URL without a slash at its end, server token, today's date in the node's zone. Two messages were sent today, one with the
tag `welcome`, which bounced hard.
"""

import sys
from datetime import date

import postmark.sync
from postmark.exceptions import PostmarkAPIException
from postmarker.core import PostmarkClient
from postmarker.exceptions import ClientError

url, token, today = sys.argv[1:4]

other = PostmarkClient(server_token=token, root_api_url=url + "/")
assert other.stats.overview()["BounceRate"] == 50
assert other.stats.sends() == {"Days": [{"Date": today, "Sent": 2}], "Sent": 2}
assert other.stats.bounces(tag="welcome", fromdate=today, todate=today)["HardBounce"] == 1
for none in (other.stats.spam, other.stats.tracked, other.stats.opens, other.stats.readtimes, other.stats.clicks, other.stats.location):
    assert none() == {"Days": []}, none
try:
    other.stats.overview(fromdate="x")
except ClientError as error:
    assert error.error_code == 900, error
else:
    sys.exit("a wrong date was taken")

with postmark.sync.ServerClient(token, base_url=url, retries=0) as server:
    overview = server.stats.overview()
    assert (overview.sent, overview.bounced, overview.bounce_rate, overview.opens) == (2, 1, 50, 0), overview
    sent = server.stats.sent_counts(from_date=date.fromisoformat(today), message_stream="outbound")
    assert [(day.date, day.sent) for day in sent.days] == [(today, 2)], sent
    bounces = server.stats.bounce_counts()
    assert (bounces.hard_bounce, bounces.days[0].hard_bounce, bounces.days[0].transient) == (1, 1, 0), bounces
    for none in ("spam_counts", "tracked_counts", "open_counts", "platform_usage", "email_client_usage", "click_counts", "browser_usage", "click_location"):
        assert getattr(server.stats, none)(tag="welcome").days == [], none
    try:
        server.stats.overview(message_stream="nowhere")
    except PostmarkAPIException as error:
        assert error.error_code == 1226, error
    else:
        sys.exit("an unknown stream was taken")
