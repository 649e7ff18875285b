-- Message streams that mail was sent on. A scope's number is part of every word of its messages: no search finds another's.
CREATE TABLE scope (
    id INTEGER PRIMARY KEY,
    server INTEGER NOT NULL,
    stream TEXT NOT NULL,
    UNIQUE (server, stream)
) STRICT;

-- One row for each message. `key` is made of its id: 42 bits of time, 21 others; so rows are in the order of time.
CREATE TABLE message (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    scope INTEGER NOT NULL,
    -- Where its record lay when it was accepted.
    position INTEGER,
    -- Its record was gone when it was read: what is known is what its events say.
    bare INTEGER NOT NULL,
    -- All that is shown, as JSON.
    about TEXT NOT NULL
) STRICT;

CREATE INDEX message_by_scope ON message (scope, key);

-- What a message is found by, as words (words.rs). The rows' texts are in `message` alone.
CREATE VIRTUAL TABLE search USING fts5 (words, content = '', columnsize = 0, detail = none, tokenize = 'ascii');
-- What is deleted is removed from its pages.
INSERT INTO search (search, rank) VALUES ('secure-delete', 1);

-- Where the log speaks of a message after its acceptance, by the key of its id. What it says of one that is gone goes with the
-- longest retention.
CREATE TABLE event (
    message INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (message, position)
) STRICT, WITHOUT ROWID;

-- Messages that nothing is known of but their acceptance.
CREATE TABLE queued (
    id BLOB PRIMARY KEY,
    key INTEGER NOT NULL,
    scope INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX queued_by_scope ON queued (scope, key);

-- All others: whoever looks for the ones does not pass over millions of the others.
CREATE TABLE settled (
    scope INTEGER NOT NULL,
    key INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

-- How many messages there are, and how many of them are queued, so that nobody counts them.
CREATE TABLE tally (
    scope INTEGER NOT NULL,
    minute INTEGER NOT NULL,
    count INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    PRIMARY KEY (scope, minute)
) STRICT, WITHOUT ROWID;
