-- A message is one row in "messages", which hardly ever changes, and one row in the place where it
-- is: ready, delayed, held or dead. So a message moves by small rows, whatever its own size.

CREATE TABLE counter (next INTEGER NOT NULL);
INSERT INTO counter VALUES (1);

-- Every queue that was ever published to.
CREATE TABLE queues (name TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,  -- from the counter, never used again
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    rank INTEGER NOT NULL,  -- 9 - priority, so that the first is the smallest
    suspect INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    envelope BLOB NOT NULL,
    UNIQUE (id, queue)
);

-- The rank at which a message waits. A suspect keeps its own for the day that it is replayed.
CREATE VIEW lines AS
SELECT seq, queue, CASE WHEN suspect THEN 10 ELSE rank END AS rank FROM messages;

-- Ranks 0 to 9 are the line, rank 10 is the suspects' own. The place is the message's own seq, a
-- newer number from the counter when it joined at the end later on, or a negative one at the head.
CREATE TABLE ready (
    queue TEXT NOT NULL,
    rank INTEGER NOT NULL,
    place INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (queue, rank, place)
) WITHOUT ROWID;

CREATE TABLE delayed (seq INTEGER PRIMARY KEY, queue TEXT NOT NULL, due REAL NOT NULL);
CREATE INDEX delayed_by_due ON delayed (queue, due);

CREATE TABLE leases (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    incarnation TEXT NOT NULL,
    queue TEXT NOT NULL,
    expires REAL NOT NULL
);

-- Few rows at any time, and found by seq but for the end of a lease: that is worth a scan, and an
-- index that every delivery touches is not.
CREATE TABLE held (seq INTEGER PRIMARY KEY, lease INTEGER NOT NULL, claim INTEGER NOT NULL);

CREATE TABLE dead (
    seq INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    died_at REAL NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX dead_by_time ON dead (queue, died_at);

-- With a rowid: records are appended, and only the small index is written all over.
CREATE TABLE records (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    expires REAL NOT NULL,
    record BLOB NOT NULL
);
CREATE INDEX records_by_end ON records (expires);

CREATE TABLE progress (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    expires REAL NOT NULL,
    progress BLOB NOT NULL
);
CREATE INDEX progress_by_end ON progress (expires);

-- Who listens for records in another process than the one that stores them, and what for.
CREATE TABLE watchers (address TEXT PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE pushes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    address TEXT NOT NULL,
    record BLOB NOT NULL
);
CREATE INDEX pushes_by_address ON pushes (address, number);
