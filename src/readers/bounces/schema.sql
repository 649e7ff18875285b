-- One row for each event that is a bounce; `position` is its event's, and the API's ID.
CREATE TABLE bounce (
    position INTEGER PRIMARY KEY,
    server INTEGER NOT NULL,
    stream TEXT NOT NULL,
    -- Postmark's code.
    type INTEGER NOT NULL,
    at INTEGER NOT NULL,
    message BLOB NOT NULL,
    email TEXT NOT NULL,
    -- The tag of the address in its stream (spool-format/FORMAT.md, suppressions).
    address BLOB,
    inactive INTEGER NOT NULL,
    -- The event holds the remote host's words.
    words INTEGER NOT NULL,
    details TEXT NOT NULL,
    sender TEXT NOT NULL,
    subject TEXT NOT NULL,
    tag TEXT NOT NULL
) STRICT;

-- Newest first, of a stream, of a type.
CREATE INDEX bounce_by_stream ON bounce (server, stream, position);
CREATE INDEX bounce_by_type ON bounce (server, stream, type, position);
CREATE INDEX bounce_by_message ON bounce (message);
CREATE INDEX bounce_by_tag ON bounce (server, tag, position) WHERE tag <> '';
-- Of those that suppressions come and go for.
CREATE INDEX bounce_by_address ON bounce (address) WHERE address IS NOT NULL;
CREATE INDEX bounce_inactive ON bounce (server, address) WHERE inactive = 1;

-- How many there are, so that nobody counts them.
CREATE TABLE tally (
    server INTEGER NOT NULL,
    stream TEXT NOT NULL,
    type INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (server, stream, type)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER bounce_counted AFTER INSERT ON bounce BEGIN
    INSERT INTO tally VALUES (NEW.server, NEW.stream, NEW.type, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER bounce_uncounted AFTER DELETE ON bounce BEGIN
    UPDATE tally SET count = count - 1
    WHERE server = OLD.server AND stream = OLD.stream AND type = OLD.type;
END;
