-- Remove waiting messages, due and delayed, a bounded number of them.
--
-- Returns how many were removed, about 1000 at most; 0 when none is left.
-- include lines
-- include hashes
check_hashes(':bodies', ':crashes', ':until')
redis.call('ZCARD', base .. ':delayed')
for _, key in ipairs(line_keys()) do redis.call('LLEN', key) end
local ids = {}
for _, key in ipairs(line_keys()) do
  local line = #ids < 500 and redis.call('LPOP', key, 500 - #ids)
  for _, id in ipairs(line or {}) do ids[#ids + 1] = id end
end
local members = redis.call('ZRANGE', base .. ':delayed', 0, 499)
if #members > 0 then
  redis.call('ZREM', base .. ':delayed', unpack(members))
  for _, member in ipairs(members) do ids[#ids + 1] = string.sub(member, 2) end
end
forget(ids, ':bodies', ':crashes', ':until')
return #ids
