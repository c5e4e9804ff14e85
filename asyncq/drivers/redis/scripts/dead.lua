-- Making dead letters.
-- include hashes
local dead = base .. ':dead'

local function check_dead()
  redis.call('ZCARD', dead)
  check_hashes(':bodies', ':crashes', ':until', ':dead:bodies', ':dead:reasons', ':dead:last', ':dead:crashes')
end

-- Make dead letters of messages that are in no place any more. What is over the bounds gives way, the
-- oldest first and a bounded number at a time. Returns how many that were.
local function bury(ids, reasons, lasts, most, keep)
  if #ids == 0 then return 0 end
  -- Each a microsecond after the other, so that they lie in the order in which they died.
  local newest = redis.call('ZRANGE', dead, -1, -1, 'WITHSCORES')
  local at = math.max(now_ms(), tonumber(newest[2] or 0) + 0.001)
  local found = redis.call('HMGET', base .. ':bodies', unpack(ids))
  local crashes = redis.call('HMGET', base .. ':crashes', unpack(ids))
  local bodies, texts, deaths = {}, {}, {}
  for i, id in ipairs(ids) do
    bodies[2 * i - 1], bodies[2 * i] = id, found[i] or ''
    texts[2 * i - 1], texts[2 * i] = id, reasons[i]
    deaths[2 * i - 1], deaths[2 * i] = string.format('%.3f', at + (i - 1) / 1000), id
    if lasts[i] then redis.call('HSET', dead .. ':last', id, lasts[i]) end
    if crashes[i] then redis.call('HSET', dead .. ':crashes', id, crashes[i]) end
  end
  redis.call('HSET', dead .. ':bodies', unpack(bodies))
  redis.call('HSET', dead .. ':reasons', unpack(texts))
  redis.call('ZADD', dead, unpack(deaths))
  forget(ids, ':bodies', ':crashes', ':until')

  local gone = redis.call('ZRANGEBYSCORE', dead, '-inf', now_ms() - tonumber(keep), 'LIMIT', 0, 1000)
  if #gone > 0 then redis.call('ZREM', dead, unpack(gone)) end
  local excess = math.min(redis.call('ZCARD', dead) - tonumber(most), 1000)
  if excess > 0 then
    local popped = redis.call('ZPOPMIN', dead, excess)
    for i = 1, #popped, 2 do gone[#gone + 1] = popped[i] end
  end
  forget(gone, ':dead:bodies', ':dead:reasons', ':dead:last', ':dead:crashes')
  return #gone
end

