-- Say what bounds a queue, for all clients.
--
-- ARGV     fields and values of what is declared; none lifts every bound
redis.call('DEL', base .. ':declared')
if #ARGV > 0 then redis.call('HSET', base .. ':declared', unpack(ARGV)) end
-- What was sent under a time to wait keeps to it only while there is one.
if redis.call('HEXISTS', base .. ':declared', 'ttl') == 0 then
  redis.call('UNLINK', base .. ':until')
end
return 1
