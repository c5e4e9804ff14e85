-- Put held messages back at the head of their lines, uncounted.
--
-- KEYS[1]  prefix:{queue}
-- ARGV[1]  incarnation
-- ARGV[2]  1: these are all, and the lease ends with the last; 0: only the ids that follow
-- Returns how many were given back; 500 at most.
-- include check
local base = KEYS[1]
local incarnation = ARGV[1]
local held = base .. ':held:' .. incarnation
local ids = {}
check_lines(base)
check_hashes(base, ':bodies', ':crashes', ':quarantine', ':epochs', ':held:' .. incarnation)
redis.call('ZCARD', base .. ':leases')
redis.call('GET', base .. ':active')
if ARGV[2] == '1' then
  redis.call('HSET', base .. ':epochs', incarnation, 'leaving') -- no claim may follow
  ids = redis.call('HRANDFIELD', held, 500)
  if #ids > 0 then redis.call('HDEL', held, unpack(ids)) end
else
  for i = 3, #ARGV do
    if redis.call('HDEL', held, ARGV[i]) == 1 then ids[#ids + 1] = ARGV[i] end
  end
end

for _, id in ipairs(ids) do
  if redis.call('HEXISTS', base .. ':crashes', id) == 1 then
    redis.call('LPUSH', base .. ':suspects', id)
    if redis.call('HINCRBY', base .. ':quarantine', incarnation, -1) <= 0 then
      redis.call('HDEL', base .. ':quarantine', incarnation)
    end
  else
    -- The blob is a MessagePack array that begins with the priority, a digit.
    local blob = redis.call('HGET', base .. ':bodies', id) or ''
    local priority = string.byte(blob, 2) or 0
    if priority > 9 then priority = 0 end
    redis.call('LPUSH', base .. ':ready:' .. priority, id)
  end
end

if ARGV[2] == '1' and redis.call('EXISTS', held) == 0 then
  redis.call('ZREM', base .. ':leases', incarnation)
  redis.call('HDEL', base .. ':epochs', incarnation)
  redis.call('HDEL', base .. ':quarantine', incarnation)
  if redis.call('GET', base .. ':active') == incarnation then
    redis.call('DEL', base .. ':active')
    if redis.call('EXISTS', base .. ':standby') == 0 then
      redis.call('LPUSH', base .. ':standby', 1)
    end
  end
end
if #ids > 0 and redis.call('EXISTS', base .. ':wake') == 0 then
  redis.call('LPUSH', base .. ':wake', 1)
end
return #ids
