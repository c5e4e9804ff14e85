-- Store messages in one queue, in order; an id that is there already is kept as it is.
--
-- ARGV[1]  prefix of the record keys, or '' where records live elsewhere
-- ARGV     how many dead letters to keep, and for how many ms
-- ARGV     then for each message: id, due in ms (0: now), blob
-- Returns how many dead letters gave way to new ones, how many messages there is room for, and the
-- ids there was no room for.
-- include waiting
local bodies, records = base .. ':bodies', ARGV[1]
local ids, keys = {}, {}
for at = 4, #ARGV, 3 do ids[#ids + 1] = ARGV[at] end

local done = {}
if records ~= '' then
  for i, id in ipairs(ids) do keys[i] = records .. id end
  if redis.call('EXISTS', unpack(keys)) > 0 then
    for i, key in ipairs(keys) do done[i] = redis.call('EXISTS', key) == 1 end
  end
end
local there = redis.call('HMGET', bodies, unpack(ids))
local deaths = {}
if redis.call('EXISTS', base .. ':dead') == 1 then deaths = redis.call('ZMSCORE', base .. ':dead', unpack(ids)) end

local ttl, most, drops, room
if redis.call('EXISTS', base .. ':declared') == 1 then
  local declared = redis.call('HMGET', base .. ':declared', 'ttl', 'most', 'drops')
  ttl, most, drops = declared[1], tonumber(declared[2]), declared[3]
  if most then
    room = most
-- include lines
    for _, key in ipairs(line_keys()) do room = room - redis.call('LLEN', key) end
  end
end

local new, ends, refused, is_new = {}, {}, {}, {}
for i, id in ipairs(ids) do
  if not (there[i] or done[i] or deaths[i] or is_new[id]) then
    local due, blob = tonumber(ARGV[i * 3 + 2]), ARGV[i * 3 + 3]
    local waits = due > 0 and due > now_ms()
    if room and not waits and not drops and room <= 0 then
      refused[#refused + 1] = id
    else
      blob = bounded(blob)
      is_new[id] = true
      new[#new + 1] = id
      new[#new + 1] = blob
      place(id, priority_of(blob), nil, waits and due)
      if room and not waits then room = room - 1 end
      if ttl then
        ends[#ends + 1] = id
        ends[#ends + 1] = math.max(due, now_ms()) + ttl
      end
    end
  end
end

check_places()
if ttl then redis.call('HLEN', base .. ':until') end
local drop
if drops then
-- include doom_or_bury
  check_dead()
  check_doomed()
  drop = doom_or_bury
end
if #new > 0 then redis.call('HSET', bodies, unpack(new)) end
if #ends > 0 then redis.call('HSET', base .. ':until', unpack(ends)) end
local news = put('RPUSH')
local given_way = 0
if drop and room and room < 0 then
  local gone = {}
  for priority = 0, 9 do
    local excess = math.min(-room, 1000) - #gone
    local line = excess > 0 and redis.call('LPOP', key_of(priority), excess)
    for _, id in ipairs(line or {}) do gone[#gone + 1] = id end
  end
  local why = 'Overflowed: the queue had ' .. most .. ' newer or more urgent ones'
  given_way = drop(gone, why, ARGV[2], ARGV[3])
end
if news then wake(':wake') end
return {given_way, most or 0, refused}
