-- What is counted is a code: a bounce type's, or one of ours below zero. Days are since 1970-01-01, in the zone of the reader.
CREATE TABLE total (
    server INTEGER NOT NULL,
    stream TEXT NOT NULL,
    day INTEGER NOT NULL,
    what INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (server, stream, day, what)
) STRICT, WITHOUT ROWID;

-- The same of the messages with a tag; of the first tags of a day.
CREATE TABLE tagged (
    server INTEGER NOT NULL,
    tag TEXT NOT NULL,
    stream TEXT NOT NULL,
    day INTEGER NOT NULL,
    what INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (server, tag, stream, day, what)
) STRICT, WITHOUT ROWID;

-- How many those are.
CREATE TABLE tags (
    server INTEGER NOT NULL,
    stream TEXT NOT NULL,
    day INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (server, stream, day)
) STRICT, WITHOUT ROWID;

-- Whose days these are: for whoever counts on without the configuration.
CREATE TABLE zone (
    name TEXT NOT NULL
) STRICT;
