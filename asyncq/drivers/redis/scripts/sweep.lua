-- Recover what was in flight under leases that have ended. It becomes suspect.
--
-- ARGV[1]  the latest moment (ms) at which this is still to be done
-- ARGV[2]  an incarnation known to be dead, if it is about that one alone: its lease ends now
-- Returns how many were recovered, about 500 at most; 0 when there is nothing left to do.
-- include leases
-- include waiting
if now_ms() > tonumber(ARGV[1]) then return 0 end

local over = {ARGV[2]}
if not ARGV[2] then
  over = redis.call('ZRANGEBYSCORE', leases, '-inf', now_ms(), 'LIMIT', 0, 10)
end
if #over == 0 then return 0 end
redis.call('LLEN', base .. ':suspects')
check_leases()
for _, incarnation in ipairs(over) do redis.call('HLEN', base .. ':in_flight:' .. incarnation) end
local recovered = 0
for _, incarnation in ipairs(over) do
  if recovered >= 500 then break end
  local in_flight = base .. ':in_flight:' .. incarnation
  -- Suspects in its quarantine are the ones to blame.
  local caught = redis.call('HEXISTS', base .. ':quarantine', incarnation) == 1
  local ids = redis.call('HRANDFIELD', in_flight, 500)
  if #ids > 0 then redis.call('HDEL', in_flight, unpack(ids)) end
  for _, id in ipairs(ids) do
    local guilty = not caught or redis.call('HEXISTS', base .. ':crashes', id) == 1
    redis.call('HINCRBY', base .. ':crashes', id, guilty and 1 or 0)
    place(id, 0, 'suspects')
  end
  recovered = recovered + #ids
  end_lease(incarnation)
end
if put('RPUSH') then wake(':wake') end
return recovered
