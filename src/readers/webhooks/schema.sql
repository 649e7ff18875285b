-- How far each hook has come in the event log, and what of it waits for a retry.
CREATE TABLE hook (
    -- The webhook's id, or the server's with the name of one of its own hook URLs.
    key TEXT PRIMARY KEY,
    -- All events below are settled, or among the retries.
    cursor INTEGER NOT NULL,
    succeeded_unix_ms INTEGER,
    failed_unix_ms INTEGER,
    failure TEXT NOT NULL DEFAULT '',
    failing_since_unix_ms INTEGER,
    stopped_unix_ms INTEGER,
    stopped_why TEXT NOT NULL DEFAULT '',
    -- A range of the log that is sent again.
    replay_next INTEGER,
    replay_until INTEGER,
    replay_from_unix_ms INTEGER,
    replay_to_unix_ms INTEGER,
    -- Of the hook that this was begun for: one that is set anew begins anew.
    created_unix_ms INTEGER,
    -- Since when there is no such hook.
    gone_unix_ms INTEGER,
    -- The log's end when it began: what lies behind is its own, whatever the time.
    began INTEGER
) STRICT;

CREATE TABLE retry (
    hook TEXT NOT NULL,
    -- Of the event.
    position INTEGER NOT NULL,
    class INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (hook, position)
) STRICT, WITHOUT ROWID;
