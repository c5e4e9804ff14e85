-- Leases: how they last, and how they end.
-- include hashes
local leases = base .. ':leases'

local function extend_lease(incarnation, ms)
  -- A full server refuses what needs memory, unless the script has written before; this writes
  -- nothing, and counts. The living must keep their leases: workers are what makes room.
  redis.call('ZREM', leases, '')
  redis.call('ZADD', leases, now_ms() + tonumber(ms), incarnation)
end

local function check_leases()
  redis.call('ZCARD', leases)
  redis.call('GET', base .. ':active')
  check_hashes(':crashes', ':quarantine', ':epochs')
end

-- End a lease under which nothing is in flight any more.
local function end_lease(incarnation)
  if redis.call('EXISTS', base .. ':in_flight:' .. incarnation) == 1 then return end
  redis.call('ZREM', leases, incarnation)
  redis.call('HDEL', base .. ':epochs', incarnation)
  redis.call('HDEL', base .. ':quarantine', incarnation)
  if redis.call('GET', base .. ':active') == incarnation then
    redis.call('DEL', base .. ':active')
    wake(':standby')
  end
end

-- So many suspects left an incarnation's quarantine.
local function leave_quarantine(incarnation, count)
  if count > 0 and redis.call('HINCRBY', base .. ':quarantine', incarnation, -count) <= 0 then
    redis.call('HDEL', base .. ':quarantine', incarnation)
  end
end

