-- Make a lease last from now; 0 if it has been swept.
--
-- KEYS[1]  prefix:{queue}
-- ARGV     incarnation, lease in ms
local leases = KEYS[1] .. ':leases'
if not redis.call('ZSCORE', leases, ARGV[1]) then return 0 end
-- A full server refuses what needs memory, unless the script has written before; this writes nothing,
-- and counts. The living must keep their leases.
redis.call('ZREM', leases, '')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', leases, now + tonumber(ARGV[2]), ARGV[1])
return 1
