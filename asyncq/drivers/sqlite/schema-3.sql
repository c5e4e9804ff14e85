-- How the last attempt of a dead letter failed: MessagePack, NULL where nothing is known.
ALTER TABLE dead ADD COLUMN last BLOB;

-- How many dead letters each queue has: to count them for each new one would take longer and longer.
CREATE TABLE dead_counts (queue TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO dead_counts SELECT queue, count(*) FROM dead GROUP BY queue;
CREATE TRIGGER dead_more AFTER INSERT ON dead BEGIN
    INSERT INTO dead_counts VALUES (NEW.queue, 1)
    ON CONFLICT (queue) DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER dead_less AFTER DELETE ON dead BEGIN
    UPDATE dead_counts SET count = count - 1 WHERE queue = OLD.queue;
END;
