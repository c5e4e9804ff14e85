-- Hand messages to one worker incarnation.
--
-- ARGV     incarnation, epoch of its connection, number of this claim, limit, how many crashes suspects
--          must stay below to come together (0: none may come), whether (1) one with as many may come alone,
--          how many dead letters to keep, and for how many ms
-- Returns  {ms until the next delayed one or -1, what is with suspects, ids, blobs, crashes of each
--          suspect, how many dead letters gave way, verdicts on the first of the ids}; suspects are the first
--          of the ids, and what is doomed follows. What is with suspects: 0 if some came or had no room, -1 if
--          there are none, -2 if some wait and may not be taken, -3 if another has this queue for itself.
-- include lines
local incarnation, epoch, number, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local in_flight = base .. ':in_flight:' .. incarnation

if not redis.call('ZSCORE', base .. ':leases', incarnation) then
  return redis.error_reply('LEASELOST the lease was swept')
end
-- A claim that was sent on a connection since given up must find nobody to claim for.
if redis.call('HGET', base .. ':epochs', incarnation) ~= epoch then
  return redis.error_reply('STALEEPOCH the connection was replaced')
end

local ttl, single
if redis.call('EXISTS', base .. ':declared') == 1 then
  local declared = redis.call('HMGET', base .. ':declared', 'ttl', 'single')
  ttl, single = declared[1], declared[2]
end
if single then
  local active = redis.call('GET', base .. ':active')
  if active ~= incarnation then
    local ends = active and redis.call('ZSCORE', base .. ':leases', active)
    if ends and tonumber(ends) > now_ms() then
      return {math.ceil(tonumber(ends) - now_ms()), -3, {}, {}, {}, 0, {}}
    end
    redis.call('SET', base .. ':active', incarnation)
  end
end

-- As in hashes.lua.
redis.call('HLEN', base .. ':bodies')
redis.call('HLEN', in_flight)
local end_late
if ttl then
-- include doom_or_bury
  check_dead()
  check_doomed()
  end_late = doom_or_bury
end
local due = redis.call('ZRANGEBYSCORE', base .. ':delayed', '-inf', now_ms(), 'LIMIT', 0, 500)
if #due > 0 then
-- include waiting
  for _, member in ipairs(due) do
    local id = string.sub(member, 2)
    place(id, tonumber(string.sub(member, 1, 1)), line_of(id))
  end
  check_places()
  -- In this order: a full server lets a script that has taken something away go on.
  redis.call('ZREM', base .. ':delayed', unpack(due))
  put('RPUSH')
end

local ids, crashes, verdicts, state = {}, {}, {}, -1
local together, alone = tonumber(ARGV[5]), ARGV[6] == '1'
if limit > 0 and redis.call('EXISTS', base .. ':doomed', base .. ':suspects') > 0 then
  redis.call('HLEN', base .. ':quarantine')
  redis.call('HLEN', base .. ':verdicts')
  -- What is doomed is taken first, and handed out behind the suspects that there is room for.
  local room = limit - redis.call('LLEN', base .. ':doomed')
  local line = room > 0 and redis.call('LRANGE', base .. ':suspects', 0, room - 1) or {}
  if #line > 0 and together > 0 then
    local counts = redis.call('HMGET', base .. ':crashes', unpack(line))
    for i, id in ipairs(line) do
      local count = tonumber(counts[i] or 0)
      local many = count >= together
      if many and (i > 1 or not alone) then break end
      ids[i], crashes[i] = id, count
      if many then break end
    end
  end
  if #ids > 0 then
    redis.call('LTRIM', base .. ':suspects', #ids, -1)
    redis.call('HINCRBY', base .. ':quarantine', incarnation, #ids)
  end
  if #ids > 0 or room <= 0 then
    state = 0
  elseif #line > 0 then
    state = -2
  end
  local doomed = room < limit and redis.call('LPOP', base .. ':doomed', limit) or {}
  for _, id in ipairs(doomed) do ids[#ids + 1] = id end
  if #ids > 0 then
    verdicts = redis.call('HMGET', base .. ':verdicts', unpack(ids))
    for i = 1, #ids do verdicts[i] = verdicts[i] or '' end
  end
end
local MOST_LATE = 1000 -- more is left to the next claim: what one command takes is bounded
local late, keys = {}, line_keys()
-- Again only where what has waited too long was in the way, and not for ever.
for round = 1, ttl and 4 or 1 do
  local buried = #late
  -- In most queues all messages have the lowest priority: one question, instead of nine vain tries.
  for priority = redis.call('EXISTS', unpack(keys, 3)) > 0 and 9 or 0, 0, -1 do
    if #ids >= limit or #late >= MOST_LATE then break end
    local line = redis.pcall('LPOP', keys[priority + 2], limit - #ids)
    if line and line.err then
      -- What has been taken out is handed out first.
      if #ids == 0 and #late == 0 then return line end
      break
    elseif line then
      local ends = ttl and redis.call('HMGET', base .. ':until', unpack(line))
      for i, id in ipairs(line) do
        if ends and ends[i] and tonumber(ends[i]) <= now_ms() then
          late[#late + 1] = id
        else
          ids[#ids + 1] = id
        end
      end
      -- Only the first worker that takes it has to be in time.
      if ends then redis.call('HDEL', base .. ':until', unpack(line)) end
    end
  end
  if #late == buried then break end
end
local given_way = 0
if #late > 0 then
  local why = 'WaitedTooLong: no worker took it within ' .. ttl / 1000 .. ' s'
  given_way = end_late(late, why, ARGV[7], ARGV[8])
end

local blobs = {}
if #ids > 0 then
  local claims = {}
  for i, id in ipairs(ids) do claims[2 * i - 1], claims[2 * i] = id, number end
  redis.call('HSET', in_flight, unpack(claims))
  blobs = redis.call('HMGET', base .. ':bodies', unpack(ids))
  for i = 1, #ids do
    if not blobs[i] then blobs[i] = '' end
  end
end
-- Wake the next idle worker if there is more. Suspects wait for us, not for it.
local more = state == 0 and redis.call('EXISTS', base .. ':suspects') == 1
if not more and (#ids >= limit or #late > 0) then
  more = redis.call('EXISTS', base .. ':doomed', unpack(keys, 2)) > 0
end
if more then wake(':wake') end

local wait = -1
local head = redis.call('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')
if head[2] then wait = math.max(0, math.ceil(tonumber(head[2]) - now_ms())) end
return {wait, state, ids, blobs, crashes, given_way, verdicts}
