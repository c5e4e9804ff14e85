-- Store messages in one queue, in order; an id that is there already is kept as it is.
--
-- KEYS[1]  prefix:{queue}
-- ARGV[1]  prefix of the record keys, or '' where records live elsewhere
-- ARGV     how many dead letters to keep, and for how many ms
-- ARGV     then for each message: id, priority, due in ms (0: now), blob
-- Returns how many dead letters gave way to new ones, how many messages there is room for, and the
-- ids there was no room for.
-- include bury
local base = KEYS[1]
local bodies = base .. ':bodies'
local records = ARGV[1]
local total = (#ARGV - 3) / 4

local done = {}
if records ~= '' then
  local keys = {}
  for i = 1, total do keys[i] = records .. ARGV[i * 4] end
  if redis.call('EXISTS', unpack(keys)) > 0 then
    for i = 1, total do done[i] = redis.call('EXISTS', keys[i]) == 1 end
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local dead = redis.call('EXISTS', base .. ':dead') == 1

local top, ttl, most, drops, length
if redis.call('EXISTS', base .. ':declared') == 1 then
  local declared = redis.call('HMGET', base .. ':declared', 'top', 'ttl', 'most', 'drops')
  top, ttl, most = tonumber(declared[1] or 9), declared[2], tonumber(declared[3] or -1)
  drops = declared[4]
  if most >= 0 then
    length = redis.call('LLEN', base .. ':suspects')
    for priority = 0, 9 do length = length + redis.call('LLEN', base .. ':ready:' .. priority) end
  end
end

if ttl then check_hashes(base, ':until') end
if drops then check_dead(base) end
local ready, delayed, first_due, ends, refused = {}, {}, nil, {}, {}
for i = 1, total do
  local at = i * 4
  local id, priority, due, blob = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  local known = done[i] or (dead and redis.call('ZSCORE', base .. ':dead', id))
  if top and tonumber(priority) > top then
    -- The blob begins with it, as a digit, for all who put the message back.
    priority = tostring(top)
    blob = string.sub(blob, 1, 1) .. string.char(top) .. string.sub(blob, 3)
  end
  if length and not known and not drops and due <= now and length >= most then
    known = redis.call('HEXISTS', bodies, id) == 1
    if not known then refused[#refused + 1] = id end
    known = true
  end
  if not known and redis.call('HSETNX', bodies, id, blob) == 1 then
    if due > now then
      delayed[#delayed + 1] = due
      delayed[#delayed + 1] = priority .. id
      if not first_due or due < first_due then first_due = due end
    else
      local line = ready[priority]
      if not line then line = {}; ready[priority] = line end
      line[#line + 1] = id
      if length then length = length + 1 end
    end
    if ttl then
      ends[#ends + 1] = id
      ends[#ends + 1] = math.max(due, now) + ttl
    end
  end
end

-- A key that other hands made another type takes nothing: what was for it must not be known either,
-- or it would count as sent when it is sent again.
local wake, failure, failed = false, nil, {}
for priority, line in pairs(ready) do
  local pushed = redis.pcall('RPUSH', base .. ':ready:' .. priority, unpack(line))
  if type(pushed) == 'table' then
    failure = pushed
    for i = 1, #line do failed[#failed + 1] = line[i] end
  else
    wake = true
  end
end
if #ends > 0 then redis.call('HSET', base .. ':until', unpack(ends)) end
if #delayed > 0 then
  local head = redis.pcall('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')
  local added = redis.pcall('ZADD', base .. ':delayed', unpack(delayed))
  if type(added) == 'table' then
    failure = added
    for i = 2, #delayed, 2 do failed[#failed + 1] = string.sub(delayed[i], 2) end
  -- Idle consumers sleep until the earliest; they must hear of an earlier one.
  elseif not head[2] or first_due < tonumber(head[2]) then
    wake = true
  end
end
if failure then
  redis.call('HDEL', bodies, unpack(failed))
  if #ends > 0 then redis.call('HDEL', base .. ':until', unpack(failed)) end
end
local given_way = 0
if drops and length > most then
  local gone = {}
  for priority = 0, 9 do
    local excess = math.min(length - most, 1000) - #gone
    local line = excess > 0 and redis.call('LPOP', base .. ':ready:' .. priority, excess)
    if line then
      for _, id in ipairs(line) do gone[#gone + 1] = id end
    end
  end
  if #gone > 0 then
    local why, reasons = 'Overflowed: the queue had ' .. most .. ' newer or more urgent ones', {}
    for i = 1, #gone do reasons[i] = why end
    given_way = bury(base, gone, reasons, nil, ARGV[2], ARGV[3])
    redis.call('HDEL', bodies, unpack(gone))
    redis.call('HDEL', base .. ':until', unpack(gone))
  end
end
if wake and redis.call('EXISTS', base .. ':wake') == 0 then
  redis.call('LPUSH', base .. ':wake', 1)
end
if failure then return failure end
return {given_way, most or 0, refused}
