-- Remove waiting messages, due and delayed, a bounded number of them.
--
-- KEYS[1]  prefix:{queue}
-- Returns how many were removed, about 1000 at most; 0 when none is left.
-- include check
local base = KEYS[1]
check_lines(base)
check_hashes(base, ':bodies', ':crashes', ':until')
redis.call('ZCARD', base .. ':delayed')
local ids = {}
for priority = 0, 9 do
  if #ids < 500 then
    local line = redis.call('LPOP', base .. ':ready:' .. priority, 500 - #ids)
    if line then
      for _, id in ipairs(line) do ids[#ids + 1] = id end
    end
  end
end
if #ids < 500 then
  local line = redis.call('LPOP', base .. ':suspects', 500 - #ids)
  if line then
    for _, id in ipairs(line) do ids[#ids + 1] = id end
  end
end
local members = redis.call('ZRANGE', base .. ':delayed', 0, 499)
if #members > 0 then
  redis.call('ZREM', base .. ':delayed', unpack(members))
  for _, member in ipairs(members) do ids[#ids + 1] = string.sub(member, 2) end
end
if #ids > 0 then
  redis.call('HDEL', base .. ':bodies', unpack(ids))
  redis.call('HDEL', base .. ':crashes', unpack(ids))
  redis.call('HDEL', base .. ':until', unpack(ids))
end
return #ids
