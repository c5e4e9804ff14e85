-- Append to a topic what is later than all that is there. It runs a hundred times a second for one
-- task, so it takes nothing from the prelude.
--
-- KEYS[1]  the topic: a stream, and the channel that tells of it
-- ARGV     ms to keep it, how many items it keeps, the id that this run begins with; then of each
--          item its id and its bytes
-- Returns why nobody could be told, or ''.
local key, most = KEYS[1], ARGV[2]
local added, refused
for i = 4, #ARGV, 2 do
  -- The stream knows its last id also when that item is gone, and takes no other but a later one.
  local said = redis.pcall('XADD', key, 'MAXLEN', most, ARGV[i], 'item', ARGV[i + 1])
  local why = said.err -- an id, being a text, has none
  if why and string.find(why, 'WRONGTYPE', 1, true) then
    -- Other hands wrote it; a record would take its place as well.
    redis.call('DEL', key)
    said = redis.pcall('XADD', key, 'MAXLEN', most, ARGV[i], 'item', ARGV[i + 1])
    why = said.err
  end
  if not why then
    added = true
  elseif not string.find(why, 'ID specified in XADD', 1, true) then
    refused = said
    break
  end
end
if not added then return refused or '' end
redis.call('XTRIM', key, 'MINID', ARGV[3])
redis.call('PEXPIRE', key, ARGV[1])
if refused then return refused end
-- Who listens looks now and then, where we have no right to tell.
local told = redis.pcall('PUBLISH', key, '')
return type(told) == 'table' and told.err or ''
