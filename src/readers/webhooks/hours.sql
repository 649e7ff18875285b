-- What requests came to, for 24 hours.
CREATE TABLE IF NOT EXISTS hour (
    hook TEXT NOT NULL,
    -- Since 1970.
    hour INTEGER NOT NULL,
    trigger TEXT NOT NULL,
    -- A JSON document.
    counts TEXT NOT NULL,
    PRIMARY KEY (hook, hour, trigger)
) STRICT, WITHOUT ROWID;
