-- Keys of two algorithms, imported ones of any length, and what was last seen of their records.

CREATE TABLE dkim_key_of_two (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    domain_id     INTEGER NOT NULL REFERENCES domain (id),
    selector      TEXT NOT NULL,
    algorithm     TEXT NOT NULL CHECK (algorithm IN ('rsa', 'ed25519')),
    bits          INTEGER NOT NULL,
    -- 'pending': to be published; 'active': found in the DNS; 'revoked': followed by another, or taken out of use.
    state         TEXT NOT NULL CHECK (state IN ('pending', 'active', 'revoked')),
    -- The p= of its record, in base64.
    public        TEXT NOT NULL,
    -- AES-256-GCM, under a key derived from the node key, of the PKCS#8 form in base64.
    sealed        BLOB NOT NULL,
    since_unix_ms INTEGER NOT NULL,
    UNIQUE (domain_id, selector)
) STRICT;

INSERT INTO dkim_key_of_two (id, domain_id, selector, algorithm, bits, state, public, sealed, since_unix_ms)
    SELECT id, domain_id, selector, 'rsa', 2048, state, public, sealed, since_unix_ms FROM dkim_key;

-- By name: keys of the configuration file have looks too.
CREATE TABLE dkim_look (
    domain          TEXT NOT NULL,
    selector        TEXT NOT NULL,
    -- Of which key: another one may come to stand under the name.
    public          TEXT NOT NULL,
    found           INTEGER NOT NULL CHECK (found IN (0, 1)),
    since_unix_ms   INTEGER NOT NULL,
    checked_unix_ms INTEGER NOT NULL,
    seen            TEXT NOT NULL,
    PRIMARY KEY (domain, selector)
) STRICT;

INSERT INTO dkim_look (domain, selector, public, found, since_unix_ms, checked_unix_ms, seen)
    SELECT domain.name, selector, public, COALESCE(json_extract(attributes, '$.dkim_found'), 0), since_unix_ms, since_unix_ms,
        CASE COALESCE(json_extract(attributes, '$.dkim_found'), 0) WHEN 1 THEN '' ELSE 'the record was not found' END
    FROM dkim_key JOIN domain ON domain.id = domain_id WHERE state = 'active';

DROP TABLE dkim_key;
ALTER TABLE dkim_key_of_two RENAME TO dkim_key;
CREATE UNIQUE INDEX dkim_key_live ON dkim_key (domain_id, algorithm, state) WHERE state <> 'revoked';
