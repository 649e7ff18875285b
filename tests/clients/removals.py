"""Postmark's official Python client, unmodified, against a running node: somebody asks to be forgotten, again.

Arguments: root URL without a slash at its end, account token, the address.
"""

import sys
import time

import postmark.sync
from postmark.exceptions import PostmarkAPIException

url, token, address = sys.argv[1:4]

with postmark.sync.AccountClient(token, base_url=url, retries=0) as account:
    made = account.data_removals.create("dpo@declared.example", address)
    assert (made.id, made.status) == (2, "Pending"), made
    for _ in range(300):
        status = account.data_removals.get(made.id).status
        if status == "Done":
            break
        assert status == "Pending", status
        time.sleep(0.05)
    else:
        sys.exit("it is never done")
    try:
        account.data_removals.get(77)
    except PostmarkAPIException as error:
        assert error.error_code == 1301, error
    else:
        sys.exit("there is no such removal")
