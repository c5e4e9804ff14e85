-- Put dead letters back at the end of their queue, with no crashes to their name.
--
-- KEYS[1]  prefix:{queue}
-- ARGV     ids
-- Returns the ids that were there.
-- include check
local base = KEYS[1]
local back = {}
check_lines(base)
check_dead(base)
for _, id in ipairs(ARGV) do
  if redis.call('ZREM', base .. ':dead', id) == 1 then
    local blob = redis.call('HGET', base .. ':dead:bodies', id) or ''
    local priority = string.byte(blob, 2) or 0
    if priority > 9 then priority = 0 end
    redis.call('HSET', base .. ':bodies', id, blob)
    redis.call('RPUSH', base .. ':ready:' .. priority, id)
    redis.call('HDEL', base .. ':dead:bodies', id)
    redis.call('HDEL', base .. ':dead:reasons', id)
    redis.call('HDEL', base .. ':dead:last', id)
    redis.call('HDEL', base .. ':dead:crashes', id)
    back[#back + 1] = id
  end
end
if #back > 0 and redis.call('EXISTS', base .. ':wake') == 0 then
  redis.call('LPUSH', base .. ':wake', 1)
end
return back
