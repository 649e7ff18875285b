-- Servers, streams and tokens. Ids grow and are never reused (AUTOINCREMENT), because events and records carry them.

CREATE TABLE server (
    id              INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id BETWEEN 1 AND 4294967295),
    name            TEXT NOT NULL UNIQUE,
    -- 'config': known from the configuration file, whose settings count; this row holds its id.
    -- 'created': made with the command line or the API.
    origin          TEXT NOT NULL CHECK (origin IN ('config', 'created')),
    senders         TEXT NOT NULL CHECK (senders IN ('verified', 'any')),
    message_id      TEXT NOT NULL CHECK (message_id IN ('keep', 'replace')),
    delivery_type   TEXT NOT NULL CHECK (delivery_type IN ('live', 'sandbox')),
    created_unix_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE stream (
    server_id        INTEGER NOT NULL REFERENCES server (id),
    id               TEXT NOT NULL,
    kind             TEXT NOT NULL CHECK (kind IN ('transactional', 'broadcast', 'inbound')),
    -- Name of a pool of the configuration; NULL: the default pool of the kind.
    pool             TEXT,
    archived_unix_ms INTEGER,
    PRIMARY KEY (server_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE token (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    kind            TEXT NOT NULL CHECK (kind IN ('server', 'account')),
    server_id       INTEGER REFERENCES server (id),
    -- Fixes the stream of what is sent with it.
    stream          TEXT,
    -- HMAC-SHA-256 of the token under a key derived from the node key: finds it without revealing it.
    lookup          BLOB NOT NULL UNIQUE CHECK (length(lookup) = 32),
    -- AES-256-GCM under another derived key: CRAM-MD5 needs the token itself.
    sealed          BLOB NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    revoked_unix_ms INTEGER,
    CHECK ((kind = 'server') = (server_id IS NOT NULL))
) STRICT;

-- What has been done once: 'development-tokens' when those of a development node have been made and printed.
CREATE TABLE done (
    what    TEXT PRIMARY KEY,
    unix_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
