-- For scripts that bury (they include this): make dead letters of messages that are in no place any more.
--
-- Their bodies are copied; whoever calls removes them from where they were. What is over the bounds
-- gives way, the oldest first and a bounded number at a time. Returns how many that were.
-- include check
local function bury(base, ids, reasons, lasts, most, keep)
  local dead = base .. ':dead'
  -- Each a microsecond after the other, so that they lie in the order in which they died.
  local time = redis.call('TIME')
  local now = time[1] * 1000 + time[2] / 1000
  local newest = redis.call('ZRANGE', dead, -1, -1, 'WITHSCORES')
  local at = math.max(now, tonumber(newest[2] or 0) + 0.001)
  local found = redis.call('HMGET', base .. ':bodies', unpack(ids))
  local bodies, texts, known, deaths = {}, {}, {}, {}
  for i, id in ipairs(ids) do
    bodies[2 * i - 1], bodies[2 * i] = id, found[i] or ''
    texts[2 * i - 1], texts[2 * i] = id, reasons[i]
    deaths[2 * i - 1], deaths[2 * i] = string.format('%.3f', at + (i - 1) / 1000), id
    if lasts and lasts[i] ~= '' then
      known[#known + 1] = id
      known[#known + 1] = lasts[i]
    end
  end
  redis.call('HSET', dead .. ':bodies', unpack(bodies))
  redis.call('HSET', dead .. ':reasons', unpack(texts))
  if #known > 0 then redis.call('HSET', dead .. ':last', unpack(known)) end
  redis.call('ZADD', dead, unpack(deaths))

  local gone = redis.call('ZRANGEBYSCORE', dead, '-inf', now - tonumber(keep), 'LIMIT', 0, 1000)
  if #gone > 0 then redis.call('ZREM', dead, unpack(gone)) end
  local excess = math.min(redis.call('ZCARD', dead) - tonumber(most), 1000)
  if excess > 0 then
    local popped = redis.call('ZPOPMIN', dead, excess)
    for i = 1, #popped, 2 do gone[#gone + 1] = popped[i] end
  end
  if #gone > 0 then
    for _, what in ipairs({':bodies', ':reasons', ':last', ':crashes'}) do
      redis.call('HDEL', dead .. what, unpack(gone))
    end
  end
  return #gone
end

