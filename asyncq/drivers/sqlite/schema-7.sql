-- Why a message would have died by itself, though others wait for its end; NULL for all others.
ALTER TABLE messages ADD COLUMN verdict TEXT;

-- Rank -1 is the line of the doomed, before all others. One that is a suspect waits where those do.
DROP VIEW lines;
CREATE VIEW lines AS
SELECT seq, queue,
    CASE WHEN suspect THEN 10 WHEN verdict IS NOT NULL THEN -1 ELSE rank END AS rank
FROM messages;
