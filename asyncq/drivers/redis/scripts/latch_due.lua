-- include latches
-- Latches that somebody should look at, each told to one for a time.
--
-- ARGV     limit, ms for which the caller looks at them
-- Returns  name and whether it has something unsent (0 or 1), of each.
local due, lease = {}, tonumber(ARGV[2])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', base .. 'latches', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local latch = find(name)
  if latch then
    lapse(latch)
    local unsent = unsent_of(latch)
    if unsent == 0 then latch.audits = math.min(latch.audits + 1, 30) end
    plan(latch, lease)
    write(latch)
    due[#due + 1], due[#due + 2] = name, unsent > 0 and 1 or 0
  else
    redis.call('ZREM', base .. 'latches', name)
  end
end
return due
