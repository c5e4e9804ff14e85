-- Store messages in one queue, in order; an id that is there already is kept as it is.
--
-- KEYS[1]  prefix:{queue}
-- ARGV[1]  prefix of the record keys, or '' where records live elsewhere
-- ARGV     then for each message: id, priority, due in ms (0: now), blob
-- Returns how many were new.
local base = KEYS[1]
local bodies = base .. ':bodies'
local records = ARGV[1]
local total = (#ARGV - 1) / 4

local done = {}
if records ~= '' then
  local keys = {}
  for i = 1, total do keys[i] = records .. ARGV[i * 4 - 2] end
  if redis.call('EXISTS', unpack(keys)) > 0 then
    for i = 1, total do done[i] = redis.call('EXISTS', keys[i]) == 1 end
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local dead = redis.call('EXISTS', base .. ':dead') == 1
local ready, delayed, first_due, stored = {}, {}, nil, 0
for i = 1, total do
  local at = i * 4 - 2
  local id, priority, due = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local known = done[i] or (dead and redis.call('ZSCORE', base .. ':dead', id))
  if not known and redis.call('HSETNX', bodies, id, ARGV[at + 3]) == 1 then
    stored = stored + 1
    if due > now then
      delayed[#delayed + 1] = due
      delayed[#delayed + 1] = priority .. id
      if not first_due or due < first_due then first_due = due end
    else
      local line = ready[priority]
      if not line then line = {}; ready[priority] = line end
      line[#line + 1] = id
    end
  end
end

local wake = false
for priority, line in pairs(ready) do
  redis.call('RPUSH', base .. ':ready:' .. priority, unpack(line))
  wake = true
end
if #delayed > 0 then
  local head = redis.call('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')
  redis.call('ZADD', base .. ':delayed', unpack(delayed))
  -- Idle consumers sleep until the earliest; they must hear of an earlier one.
  if not head[2] or first_due < tonumber(head[2]) then wake = true end
end
if wake and redis.call('EXISTS', base .. ':wake') == 0 then
  redis.call('LPUSH', base .. ':wake', 1)
end
return stored
