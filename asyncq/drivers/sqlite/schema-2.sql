-- What bounds a queue. A queue that is not here has no bounds.
CREATE TABLE declared (
    queue TEXT PRIMARY KEY,
    lowest_rank INTEGER NOT NULL,  -- 9 - the highest priority
    ttl REAL,
    max_length INTEGER,
    drops_head INTEGER NOT NULL,
    single_active INTEGER NOT NULL,
    active INTEGER  -- the lease that alone is handed messages
) WITHOUT ROWID;

-- When a message has waited too long for its first worker.
ALTER TABLE ready ADD COLUMN until REAL;
ALTER TABLE delayed ADD COLUMN until REAL;
