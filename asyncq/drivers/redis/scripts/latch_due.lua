-- include latches
-- Latches that somebody should look at, each told to one for a time, who is the sender of what is unsent then.
--
-- ARGV     who asks, limit, ms for which that one looks at them
-- Returns  name and whether it has something unsent (0 or 1), of each.
local due, lease = {}, tonumber(ARGV[3])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', base .. 'latches', '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local latch = find(name)
  if latch then
    lapse(latch)
    local has_unsent = take(latch, ARGV[1], lease)
    if not has_unsent then
      latch.audits = math.min(latch.audits + 1, 30)
      plan(latch)
    end
    write(latch)
    due[#due + 1], due[#due + 2] = name, has_unsent and 1 or 0
  else
    redis.call('ZREM', base .. 'latches', name)
  end
end
return due
