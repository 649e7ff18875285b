-- What may stand in From: domains, single addresses (sender signatures), and the DKIM keys of their domains.

CREATE TABLE domain (
    id               INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id BETWEEN 1 AND 4294967295),
    -- A-labels in lower case.
    name             TEXT NOT NULL UNIQUE,
    -- 'config': known from the configuration file; this row holds its id.
    origin           TEXT NOT NULL CHECK (origin IN ('config', 'created')),
    -- 0: nobody has added it; it is there for the signatures at it, which share its keys.
    listed           INTEGER NOT NULL CHECK (listed IN (0, 1)),
    -- When its owner first published what was asked for. NULL: From may not name it.
    verified_unix_ms INTEGER,
    attributes       TEXT NOT NULL DEFAULT '{}',
    created_unix_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE dkim_key (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    domain_id     INTEGER NOT NULL REFERENCES domain (id),
    selector      TEXT NOT NULL,
    -- 'pending': to be published; 'active': found in the DNS; 'revoked': followed by another.
    state         TEXT NOT NULL CHECK (state IN ('pending', 'active', 'revoked')),
    -- SubjectPublicKeyInfo in base64: the p= of its record.
    public        TEXT NOT NULL,
    -- AES-256-GCM, under a key derived from the node key, of the PKCS#8 form in base64.
    sealed        BLOB NOT NULL,
    since_unix_ms INTEGER NOT NULL,
    UNIQUE (domain_id, selector),
    UNIQUE (domain_id, state)
) STRICT;

CREATE TABLE signature (
    id                INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id BETWEEN 1 AND 4294967295),
    address           TEXT NOT NULL,
    -- The address as it is compared: lower case, A-labels.
    folded            TEXT NOT NULL UNIQUE,
    domain_id         INTEGER NOT NULL REFERENCES domain (id),
    confirmed_unix_ms INTEGER,
    attributes        TEXT NOT NULL DEFAULT '{}',
    created_unix_ms   INTEGER NOT NULL
) STRICT;

CREATE INDEX signature_domain ON signature (domain_id);
