//! `[webhooks]`.

use super::{SectionDoc, key};

pub(super) const SECTION: SectionDoc = SectionDoc {
    path: "webhooks",
    heading: "[webhooks]",
    about: "What holds for all webhooks; which there are is set by API (/webhooks, the hook URLs of /server) or `posthaste webhook add`. Without the keys that follow they lead to public addresses only, by https, on port 443, 80 or 8443, whatever DNS and redirects say. A change needs a restart.",
    keys: &[
        key(
            "allow_networks",
            "[NETWORK]",
            "[]",
            "Private ranges that webhooks may lead to; there by http and on any port too. Without a configuration file: loopback.",
        ),
        key(
            "allow_http",
            "true | false",
            "false",
            "Elsewhere by http too: addresses and subjects then cross networks in clear.",
        ),
        key(
            "verify",
            "true | false",
            "false",
            "Call a URL with a specimen of each trigger when it is set, and refuse it (1364) if one is not taken. Requests may say otherwise (Verify).",
        ),
        key(
            "bounce_retries",
            "[DURATION]",
            "1m, 5m, 10m, 10m, 10m, 15m, 30m, 1h, 2h, 6h",
            "Waits between the attempts for a bounce or complaint; at most 30 of 1s to 1d. [] tries once.",
        ),
        key(
            "event_retries",
            "[DURATION]",
            "1m, 5m, 15m, 1m, 5m, 10m, 10m, 10m, 15m",
            "The same for deliveries and changes of suppressions.",
        ),
        key(
            "retry_on",
            "\"all\" | \"server-errors\"",
            "\"all\"",
            "all: everything but 2xx, 403 and 410 is tried again. server-errors: only 408, 429, 5xx and no answer.",
        ),
        key(
            "concurrency",
            "NUMBER",
            "32",
            "Requests under way to one webhook; 1 to 256. All webhooks together have 2,048, and each 4 whatever others have.",
        ),
        key(
            "timeout",
            "DURATION",
            "30s",
            "Of one attempt, redirects included; at most 2m.",
        ),
        key(
            "stop_after",
            "DURATION",
            "5d",
            "A webhook that has taken nothing for so long, though it was tried, is stopped: `posthaste webhook resume`, a verification or an edit starts it again, with what came meanwhile.",
        ),
    ],
};
