-- Every attribute of servers and streams, three kinds of tokens, and when a token was last used.
-- What nothing searches by is one JSON document per row.

ALTER TABLE server ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}';
UPDATE server SET attributes = json_object('inbound_hash', lower(hex(randomblob(16))));

ALTER TABLE stream ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE stream ADD COLUMN created_unix_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN updated_unix_ms INTEGER;
UPDATE stream SET created_unix_ms = (SELECT created_unix_ms FROM server WHERE server.id = stream.server_id);

CREATE TABLE credential (
    id                INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id BETWEEN 1 AND 4294967295),
    kind              TEXT NOT NULL CHECK (kind IN ('server', 'smtp', 'account')),
    server_id         INTEGER REFERENCES server (id),
    -- Fixes the stream of what is sent with it.
    stream            TEXT,
    name              TEXT NOT NULL DEFAULT '',
    -- Of an SMTP token: its user name, no secret.
    access_key        TEXT UNIQUE,
    -- HMAC-SHA-256 of the token, or of the access key, under a key derived from the node key: finds it without revealing it.
    lookup            BLOB NOT NULL UNIQUE CHECK (length(lookup) = 32),
    -- AES-256-GCM of the token or secret key under another derived key, for CRAM-MD5 and for listings of server tokens.
    -- NULL for account tokens: their hash is enough.
    sealed            BLOB,
    rate              TEXT,
    created_unix_ms   INTEGER NOT NULL,
    revoked_unix_ms   INTEGER,
    last_used_unix_ms INTEGER,
    CHECK ((kind = 'account') = (server_id IS NULL)),
    CHECK ((kind = 'account') = (sealed IS NULL)),
    CHECK ((kind = 'smtp') = (access_key IS NOT NULL)),
    CHECK (kind != 'smtp' OR stream IS NOT NULL)
) STRICT;

CREATE INDEX credential_server ON credential (server_id);

INSERT INTO credential (id, kind, server_id, stream, lookup, sealed, created_unix_ms, revoked_unix_ms)
SELECT id, kind, server_id, stream, lookup, CASE kind WHEN 'account' THEN NULL ELSE sealed END, created_unix_ms, revoked_unix_ms
FROM token;

DROP TABLE token;
