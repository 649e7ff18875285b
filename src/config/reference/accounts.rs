//! The account: `[account]`, `[[server]]`, `[[domain]]` and what is below them.

use super::{CERT, KEY, SectionDoc, key};

pub(super) const ACCOUNT: SectionDoc = SectionDoc {
    path: "account",
    heading: "[account]",
    about: "The account-level API.",
    keys: &[
        key(
            "tokens",
            "[TOKEN]",
            "[]",
            "May manage servers, domains and senders. More: `posthaste token create --account`.",
        ),
        key(
            "rate",
            "\"10/s\" | \"600/m\" | \"5000/h\"",
            "no limit",
            "Requests of each account token; over it: HTTP 429 with Retry-After.",
        ),
        key(
            "notices_from",
            "\"posthaste@example.com\"",
            "posthaste@ and [node] hostname",
            "From of the node's own mail, such as confirmations of sender signatures.",
        ),
    ],
};

pub(super) const INBOUND: SectionDoc = SectionDoc {
    path: "inbound",
    heading: "[[inbound]]",
    about: "A listener for bounces of mail that left from here, usually on port 25 of the host that the MX of [bounce] domain names. It takes nothing else but mail for postmaster and abuse, and relays nothing.",
    keys: &[
        key("bind", "\"ADDRESS:PORT\"", "", "Where it listens."),
        key(
            "tls",
            "\"off\" | \"starttls\"",
            "\"off\"",
            "Whether STARTTLS is offered.",
        ),
        CERT,
        KEY,
        key(
            "proxy_from",
            "[NETWORK]",
            "[]",
            "Whose connections begin with a PROXY header.",
        ),
        key(
            "size_max",
            "SIZE",
            "25MiB",
            "Longest report that is taken; its first 128 KiB are kept.",
        ),
    ],
};

pub(super) const BOUNCE: SectionDoc = SectionDoc {
    path: "bounce",
    heading: "[bounce]",
    about: "Where bounces come back to. Mail whose domain in From has a verified Return-Path domain (`posthaste domain edit --return-path`) leaves from an address in that, which names the message and cannot be forged.",
    keys: &[
        key(
            "domain",
            "\"bounces.example.com\"",
            "reverse-paths of other mail stay as submitted",
            "All other mail leaves from an address in this domain. Its MX is this node, and its SPF record names the egress sources. Return-Path domains of customers are aliases (CNAME) of it, or of [node] hostname where it is not given.",
        ),
        key(
            "postmaster",
            "\"ops@example.com\"",
            "kept as events `people_mail`, see `posthaste events cat`",
            "Who gets what [[inbound]] listeners take for postmaster and abuse (RFC 5321 §4.5.1, RFC 2142) at bounce domains and the node's name: in letters of the node's, from [account] notices_from, by the default transactional pool.",
        ),
        key(
            "secrets",
            "[TOKEN]",
            "one derived from DATA_DIR/node.key",
            "Sign the addresses: the first makes them, all are accepted. To replace one put the new one first and keep the old one for accept_for. Nodes that share a domain share them.",
        ),
        key(
            "accept_for",
            "\"60d\"",
            "\"60d\"",
            "How long after the acceptance of a message a bounce to its address is taken.",
        ),
        key(
            "complaints_to",
            "\"complaints@bounces.example.com\"",
            "complaints come to bounce addresses only",
            "An address at which [[inbound]] takes complaints: give it to the feedback loops of mailbox providers (RFC 5965). A report is matched to its message by what it shows of it. Other mail to it is dropped, so register where people can read the provider's answer, and change the address then.",
        ),
    ],
};

pub(super) const SUPPRESSIONS: SectionDoc = SectionDoc {
    path: "suppressions",
    heading: "[suppressions]",
    about: "To whom streams do not send (`posthaste suppression`).",
    keys: &[key(
        "hashed",
        "BOOL",
        "false",
        "Keep addresses as hashes keyed with DATA_DIR/node.key, without which they are of no use. Listings then show `hash:...`; asked for one address, they answer. Addresses kept before are hashed at the next start, in the event log when its retention is over. There is no way back.",
    )],
};

pub(super) const SERVER: SectionDoc = SectionDoc {
    path: "server",
    heading: "[[server]]",
    about: "A server in Postmark's sense: a tenant with its tokens and streams. Lives together with those made by `posthaste server create`.",
    keys: &[
        key(
            "id",
            "NUMBER",
            "allotted at first sight of the name",
            "Fixes the id; never reused for another name.",
        ),
        key("name", "\"app\"", "", "Unique."),
        key(
            "tokens",
            "[TOKEN]",
            "[]",
            "User name and password of SMTP AUTH.",
        ),
        key(
            "senders",
            "\"verified\" | \"any\"",
            "\"verified\"",
            "verified: From must be of a verified domain ([[domain]], `posthaste domain add`) or a confirmed sender signature.",
        ),
        key(
            "notify",
            "\"none\" | \"dsn\"",
            "\"none\"",
            "dsn: who submits over SMTP is told by mail (RFC 3464) at the reverse-path what NOTIFY asks for, of failures where there is none. From is MAILER-DAEMON@ [node] hostname; such notices go by stream `outbound`, or the first transactional one that sends.",
        ),
        key(
            "message_id",
            "\"keep\" | \"replace\"",
            "\"keep\"",
            "Whether a submitted Message-ID is kept. replace: Postmark's way.",
        ),
        key(
            "delivery_type",
            "\"live\" | \"sandbox\"",
            "\"live\"",
            "sandbox: all its mail goes to the built-in sink, never to the world.",
        ),
        key(
            "strict",
            "true | false",
            "false",
            "SMTP: what may not be sent is refused at the end of DATA (550 5.7.1), instead of being taken and bounced.",
        ),
        key(
            "rate",
            "\"10/s\" | \"600/m\" | \"5000/h\"",
            "no limit",
            "Messages and requests of each credential; over it: SMTP 451 4.7.1, HTTP 429 with Retry-After.",
        ),
        key(
            "stream",
            "[[server.stream]]",
            "[]",
            "Streams besides outbound, broadcast and inbound, or pools for these; at most ten in all.",
        ),
    ],
};

pub(super) const STREAM: SectionDoc = SectionDoc {
    path: "server.stream",
    heading: "[[server.stream]]",
    about: "A message stream of the server above.",
    keys: &[
        key(
            "id",
            "\"outbound\"",
            "",
            "At most 30 of a-z 0-9 - _, the first a letter.",
        ),
        key(
            "type",
            "\"transactional\" | \"broadcast\" | \"inbound\"",
            "fixed for outbound, broadcast, inbound",
            "Must be given for other streams.",
        ),
        key(
            "pool",
            "\"tx\"",
            "the default or only pool of its kind",
            "Where its mail leaves from.",
        ),
        key(
            "retention",
            "DURATION",
            "that of [spool]",
            "How long its content is kept; 0d to 365d.",
        ),
        key(
            "retry",
            "{ first, max, max_age }",
            "that of [retry] for its kind",
            "Waits and age limit of its deferred mail, as in [retry]; what is left out stays.",
        ),
        key(
            "ambiguous",
            "\"retry\" | \"stop\"",
            "\"retry\"",
            "When the answer to the final dot is lost: send again after ten minutes at least, three times at most, or bounce at once (one-time codes).",
        ),
    ],
};

pub(super) const DOMAIN: SectionDoc = SectionDoc {
    path: "domain",
    heading: "[[domain]]",
    about: "A domain of yours; counts as verified.",
    keys: &[
        key(
            "name",
            "\"example.com\"",
            "",
            "That domain, not those below it.",
        ),
        key(
            "dkim",
            "[{ selector, key_file }]",
            "[]",
            "Keys that sign its mail. Of each algorithm the first signs whose record is not missed: list a new one before the old one to rotate.",
        ),
    ],
};

pub(super) const DKIM: SectionDoc = SectionDoc {
    path: "domain.dkim",
    heading: "dkim = [{ … }] in [[domain]]",
    about: "A signing key. `posthaste dkim ls --zone` prints the record to publish for it.",
    keys: &[
        key(
            "selector",
            "\"ph1\"",
            "",
            "Name of the key in DNS: its record stands at SELECTOR._domainkey.NAME.",
        ),
        key(
            "key_file",
            "\"FILE\"",
            "",
            "Private key in PEM, mode 0600 or 0400: RSA (PKCS#8 or PKCS#1, at least 1024 bits, better 2048) or Ed25519 (PKCS#8). Read at start and at SIGHUP.",
        ),
    ],
};

pub(super) const SIGNING: SectionDoc = SectionDoc {
    path: "dkim",
    heading: "[dkim]",
    about: "DKIM beyond single domains.",
    keys: &[
        key(
            "domain",
            "\"mail.example.com\"",
            "none",
            "Signs all mail of the node, whatever its From, after the domain of From: feedback loops and reputation systems know the sender by it. Needs `keys`.",
        ),
        key(
            "keys",
            "[{ selector, key_file }]",
            "[]",
            "Its keys, as those of [[domain]].",
        ),
        key(
            "ed25519",
            "BOOL",
            "false",
            "New domains get an Ed25519 key besides their RSA one (two records to publish). `posthaste dkim add` makes it for one domain.",
        ),
    ],
};

pub(super) const SIGNING_KEYS: SectionDoc = SectionDoc {
    path: "dkim.keys",
    heading: "keys = [{ … }] in [dkim]",
    about: "A signing key of the platform's domain.",
    keys: &[
        key("selector", "\"ph1\"", "", "Name of the key in DNS."),
        key(
            "key_file",
            "\"FILE\"",
            "",
            "Private key in PEM, mode 0600 or 0400.",
        ),
    ],
};
