-- Recover what a worker held whose lease has ended. What it held becomes suspect.
--
-- KEYS[1]  prefix:{queue}
-- ARGV[1]  the latest moment (ms) at which this is still to be done
-- ARGV[2]  an incarnation known to be dead, if it is about that one alone: its lease ends now
-- Returns how many were recovered, about 500 at most; 0 when there is nothing left to do.
-- include check
local base = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local recovered = 0
if now > tonumber(ARGV[1]) then return 0 end

local over = {ARGV[2]}
if not ARGV[2] then
  over = redis.call('ZRANGEBYSCORE', base .. ':leases', '-inf', now, 'LIMIT', 0, 10)
end
if #over > 0 then
  redis.call('LLEN', base .. ':suspects')
  redis.call('ZCARD', base .. ':leases')
  redis.call('GET', base .. ':active')
  check_hashes(base, ':crashes', ':quarantine', ':epochs')
end
for _, incarnation in ipairs(over) do
  if recovered >= 500 then break end
  local held = base .. ':held:' .. incarnation
  -- Suspects in its quarantine are the ones to blame.
  local caught = redis.call('HEXISTS', base .. ':quarantine', incarnation) == 1
  local ids = redis.call('HRANDFIELD', held, 500)
  if #ids > 0 then redis.call('HDEL', held, unpack(ids)) end
  for _, id in ipairs(ids) do
    local guilty = not caught or redis.call('HEXISTS', base .. ':crashes', id) == 1
    redis.call('HINCRBY', base .. ':crashes', id, guilty and 1 or 0)
    redis.call('RPUSH', base .. ':suspects', id)
  end
  recovered = recovered + #ids
  if redis.call('EXISTS', held) == 0 then
    redis.call('ZREM', base .. ':leases', incarnation)
    redis.call('HDEL', base .. ':quarantine', incarnation)
    redis.call('HDEL', base .. ':epochs', incarnation)
    if redis.call('GET', base .. ':active') == incarnation then
      redis.call('DEL', base .. ':active')
      if redis.call('EXISTS', base .. ':standby') == 0 then
        redis.call('LPUSH', base .. ':standby', 1)
      end
    end
  end
end

if recovered > 0 and redis.call('EXISTS', base .. ':wake') == 0 then
  redis.call('LPUSH', base .. ':wake', 1)
end
return recovered
