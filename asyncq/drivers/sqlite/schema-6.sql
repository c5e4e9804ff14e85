-- Latches: what is held until all its parts have arrived.
CREATE TABLE latches (
    number INTEGER PRIMARY KEY,
    name TEXT UNIQUE,  -- NULL: it is forgotten, and what it has goes bit by bit
    latch BLOB NOT NULL,  -- packed, but for the times
    look_at REAL,
    forget_at REAL
);
CREATE INDEX latches_by_look ON latches (look_at) WHERE look_at IS NOT NULL;
CREATE INDEX latches_by_end ON latches (forget_at) WHERE forget_at IS NOT NULL;

CREATE TABLE latch_parts (
    latch INTEGER NOT NULL,
    name TEXT NOT NULL,
    part BLOB NOT NULL,
    PRIMARY KEY (latch, name)
) WITHOUT ROWID;

CREATE TABLE latch_sends (
    latch INTEGER NOT NULL,
    is_failure INTEGER NOT NULL,
    place INTEGER NOT NULL,
    send BLOB NOT NULL,
    PRIMARY KEY (latch, is_failure, place)
) WITHOUT ROWID;

-- Entries of the registry, and how often those of each kind have changed.
CREATE TABLE entries (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    ends REAL,
    data BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE INDEX entries_by_end ON entries (ends) WHERE ends IS NOT NULL;

CREATE TABLE entry_kinds (
    kind TEXT PRIMARY KEY,
    changes INTEGER NOT NULL
) WITHOUT ROWID;
