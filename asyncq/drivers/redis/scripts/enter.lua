-- Begin a lease in one queue, or take it up again on a new connection.
--
-- KEYS[1]  prefix:{queue}
-- ARGV     incarnation, epoch, lease in ms, whether it must exist (0 or 1)
-- Returns what it holds: each id, and the number of its claim.
-- include check
local base = KEYS[1]
local leases = base .. ':leases'
if ARGV[4] == '1' and not redis.call('ZSCORE', leases, ARGV[1]) then
  return redis.error_reply('LEASELOST the lease was swept')
end
check_hashes(base, ':epochs', ':held:' .. ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A full server refuses what needs memory, unless the script has written before; this writes nothing,
-- and counts. Workers are what makes room.
redis.call('ZREM', leases, '')
redis.call('ZADD', leases, now + tonumber(ARGV[3]), ARGV[1])
redis.call('HSET', base .. ':epochs', ARGV[1], ARGV[2])
return redis.call('HGETALL', base .. ':held:' .. ARGV[1])
