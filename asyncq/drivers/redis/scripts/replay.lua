-- Put dead letters back at the end of their queue, with no crashes to their name.
--
-- ARGV     ids
-- Returns the ids that were there.
-- include waiting
-- include dead
local back, blobs = {}, {}
check_dead()
for _, id in ipairs(ARGV) do
  if not blobs[id] and redis.call('ZSCORE', dead, id) then
    back[#back + 1] = id
    blobs[id] = bounded(redis.call('HGET', dead .. ':bodies', id) or '')
    place(id, priority_of(blobs[id]))
  end
end
check_places()
for _, id in ipairs(back) do
  redis.call('ZREM', dead, id)
  redis.call('HSET', base .. ':bodies', id, blobs[id])
end
forget(back, ':dead:bodies', ':dead:reasons', ':dead:last', ':dead:crashes')
if put('RPUSH') then wake(':wake') end
return back
