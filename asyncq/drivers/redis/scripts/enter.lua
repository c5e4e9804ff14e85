-- Begin a lease in one queue, or take it up again on a new connection.
--
-- ARGV     incarnation, epoch, lease in ms, whether it must exist (0 or 1)
-- Returns what is in flight under it: each id, and the number of its claim.
-- include leases
local incarnation, epoch = ARGV[1], ARGV[2]
if ARGV[4] == '1' and not redis.call('ZSCORE', leases, incarnation) then
  return redis.error_reply('LEASELOST the lease was swept')
end
redis.call('HLEN', base .. ':in_flight:' .. incarnation)
redis.call('HLEN', base .. ':epochs')
extend_lease(incarnation, ARGV[3])
redis.call('HSET', base .. ':epochs', incarnation, epoch)
return redis.call('HGETALL', base .. ':in_flight:' .. incarnation)
