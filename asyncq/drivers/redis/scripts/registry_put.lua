-- include latch_hold
-- include registry
-- Write an entry if this version of it stands, and apply holds.
--
-- ARGV     behind those of all: version, ms to keep it (0: for ever), data, the holds (packed, as for
--          latch_apply; or ''), and what these refer to
-- Returns  {its version, when it ends, why nobody could be told or ''}, or nothing.
local BITE = 20 -- names of what has ended, removed at a time
local stands = standing()
if stands ~= tonumber(ARGV[6]) then return nil end
if ARGV[9] ~= '' then
  for _, effect in ipairs(cmsgpack.unpack(ARGV[9])) do
    if not find(effect[2]) then hold(unpack(effect, 2)) end
  end
end
for _, ended in ipairs(sure('ZRANGEBYSCORE', ends_of, '-inf', now, 'LIMIT', 0, BITE)) do
  redis.call('ZREM', ends_of, ended)
  sure('ZREM', entries, ended)
end
local number = count(stands)
local ends, keep = '0', tonumber(ARGV[7])
if keep > 0 then ends = string.format('%.0f', now + keep) end
local value = string.format('%.0f ', number) .. ends .. '\n' .. ARGV[8]
if keep > 0 then
  redis.call('SET', entry, value, 'PXAT', ends)
  redis.call('ZADD', ends_of, ends, name)
else
  redis.call('SET', entry, value)
  redis.call('ZREM', ends_of, name)
end
sure('ZADD', entries, 0, name)
return {number, tonumber(ends), tell(number, number)}
