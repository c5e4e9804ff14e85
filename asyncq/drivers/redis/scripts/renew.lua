-- Make a lease last from now; 0 if it has been swept.
--
-- ARGV     incarnation, lease in ms
-- include leases
if not redis.call('ZSCORE', leases, ARGV[1]) then return 0 end
extend_lease(ARGV[1], ARGV[2])
return 1
