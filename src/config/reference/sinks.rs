//! `[[sink]]`.

use super::{SectionDoc, key};

pub(super) const SINK: SectionDoc = SectionDoc {
    path: "sink",
    heading: "[[sink]]",
    about: "Where events go besides, as lines of JSON with the fields of `posthaste events tail --json`: at least once, in order, with an id that only grows. One that does not take them holds up nobody; they wait in the event log.",
    keys: &[
        key(
            "name",
            "\"NAME\"",
            "",
            "Of its place in the log: another name begins anew.",
        ),
        key(
            "type",
            "\"file\" | \"stdout\" | \"syslog\" | \"journald\" | \"nats\" | \"kafka\"",
            "",
            "What takes them.",
        ),
        key(
            "kinds",
            "[\"delivered\", ...]",
            "all",
            "Only events of these kinds.",
        ),
        key("servers", "[\"NAME\"]", "all", "Only of these servers."),
        key(
            "streams",
            "[\"ID\"]",
            "all",
            "Only of streams with these ids.",
        ),
        key(
            "from",
            "\"now\" | \"start\"",
            "\"now\"",
            "Where a new sink begins: with what comes, or with the first event that is kept.",
        ),
        key(
            "path",
            "\"FILE\"",
            "must be given for a file",
            "events.jsonl becomes events-ID.jsonl when it is rotated, ID being its last event's.",
        ),
        key(
            "rotate_size",
            "SIZE",
            "64MiB",
            "Of a file: when a new one is begun.",
        ),
        key(
            "rotate_every",
            "DURATION",
            "never",
            "Of a file: the same, by age.",
        ),
        key(
            "keep",
            "NUMBER",
            "30",
            "Rotated files; older ones are removed.",
        ),
        key(
            "compression",
            "\"none\" | \"zstd\" | \"gzip\"",
            "\"zstd\"",
            "Of rotated files; of what Kafka gets.",
        ),
        key(
            "socket",
            "\"FILE\"",
            "/dev/log; /run/systemd/journal/socket",
            "Of syslog and of the journal.",
        ),
        key(
            "url",
            "\"nats://HOST:4222\" | \"tls://HOST:4222\"",
            "must be given for NATS",
            "A NATS server with JetStream.",
        ),
        key(
            "subject",
            "\"SUBJECT\"",
            "\"posthaste.{server}.{stream}.{kind}\"",
            "A stream must take it: create one with the subjects posthaste.>. Nats-Msg-Id is hostname and event id.",
        ),
        key(
            "user",
            "\"NAME\"",
            "none",
            "That the NATS server or the brokers ask for.",
        ),
        key(
            "password",
            "PASSWORD",
            "none",
            "His: env:NAME, file:PATH or itself.",
        ),
        key(
            "token",
            "TOKEN",
            "none",
            "That the NATS server asks for instead.",
        ),
        key(
            "brokers",
            "[\"HOST:9092\", ...]",
            "must be given for Kafka",
            "Some brokers, which name the others. A node has this type when it was built with `cargo build --release --features kafka`.",
        ),
        key(
            "topic",
            "\"TOPIC\"",
            "\"posthaste\"",
            "It must be there, and its user must have no produce quota. Key: the message's id; headers: id, node and kind of the event.",
        ),
        key(
            "tls",
            "true | false",
            "false",
            "Of Kafka: whether brokers speak TLS, with a certificate that the system or [tls] ca_file vouches for.",
        ),
        key(
            "mechanism",
            "\"plain\" | \"scram-sha-256\" | \"scram-sha-512\"",
            "\"scram-sha-512\"",
            "Of Kafka's SASL, with user and password.",
        ),
    ],
};
