-- Put messages that are in flight back at the head of their lines, uncounted.
--
-- ARGV[1]  incarnation
-- ARGV[2]  which: 'all', and the lease ends with the last; 'unheard', the ids that follow; 'again', the
--          ids that follow, which have run: they become suspects, with no crash to their name, so that
--          whoever takes them looks whether they have an outcome
-- Returns how many were given back; 500 at most.
-- include leases
-- include waiting
local incarnation, which = ARGV[1], ARGV[2]
local in_flight, crashes = base .. ':in_flight:' .. incarnation, base .. ':crashes'
local ids, again, leaving = {}, {}, 0
check_leases()
redis.call('HLEN', in_flight)
if which == 'all' then
  ids = redis.call('HRANDFIELD', in_flight, 500)
else
  for i = 3, #ARGV do
    if redis.call('HEXISTS', in_flight, ARGV[i]) == 1 then ids[#ids + 1] = ARGV[i] end
  end
end
for _, id in ipairs(ids) do
  local line = line_of(id)
  if line == 'suspects' then
    leaving = leaving + 1
  elseif which == 'again' then
    line, again[#again + 1] = 'suspects', id
  end
  place(id, priority_of(redis.call('HGET', base .. ':bodies', id)), line)
end
check_places()

if which == 'all' then redis.call('HSET', base .. ':epochs', incarnation, 'leaving') end -- no claim may follow
if #ids > 0 then redis.call('HDEL', in_flight, unpack(ids)) end
for _, id in ipairs(again) do redis.call('HSET', crashes, id, 0) end
leave_quarantine(incarnation, leaving)
if put('LPUSH') then wake(':wake') end
if which == 'all' then end_lease(incarnation) end
return #ids
