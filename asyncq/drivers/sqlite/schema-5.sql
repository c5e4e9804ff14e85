-- How far a task is, is a topic's affair.
DROP TABLE progress;

-- A topic is one row, its items are as many as it keeps. What was forgotten or overtaken has no name
-- any more, and goes item by item: so that costs the same however much there was.
CREATE TABLE topics (
    number INTEGER PRIMARY KEY,
    name TEXT UNIQUE,
    epoch INTEGER NOT NULL,  -- of all its items
    last INTEGER NOT NULL,  -- the number of the latest
    count INTEGER NOT NULL,  -- of its items: to count them for each new one would take longer
    expires REAL NOT NULL
);
CREATE INDEX topics_by_end ON topics (expires);

CREATE TABLE topic_items (
    topic INTEGER NOT NULL,
    number INTEGER NOT NULL,
    item BLOB NOT NULL,
    PRIMARY KEY (topic, number)
) WITHOUT ROWID;
