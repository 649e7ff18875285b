-- Webhooks: where events of a stream go.

CREATE TABLE webhook (
    id              INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id BETWEEN 1 AND 4294967295),
    server_id       INTEGER NOT NULL REFERENCES server (id),
    stream          TEXT NOT NULL,
    attributes      TEXT NOT NULL DEFAULT '{}',
    -- AES-256-GCM, under a key derived from the node key, of its URL, user, password, header fields and signing secret as one
    -- JSON document: any of them may be a secret.
    sealed          BLOB NOT NULL,
    created_unix_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX webhook_server ON webhook (server_id);
