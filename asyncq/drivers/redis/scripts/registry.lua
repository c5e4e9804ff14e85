-- What the scripts of the registry have in common.
--
-- KEYS[1]  what all our keys begin with, and a colon
-- ARGV     kind, name, the kind's topic, how many changes that keeps, for how many ms; others follow
-- Of each entry there is entry:<kind>:<name>: its version, a blank, when it ends in ms (0: never), a line
-- feed, its data; Redis removes it when it ends. Of each kind there are: entries:<kind> and
-- entry-ends:<kind>, sorted sets of the names, and by when they end; entry-changes:<kind>, a count.
local base = KEYS[1]
local kind, name = ARGV[1], ARGV[2]
local entry = base .. 'entry:' .. kind .. ':' .. name
local entries, ends_of = base .. 'entries:' .. kind, base .. 'entry-ends:' .. kind
local EPOCH, MOST, DIGITS = '1', 2 ^ 53, 16

-- A key of another type was written by other hands; it gives way.
local function sure(command, key, ...)
  local said = redis.pcall(command, key, ...)
  if type(said) ~= 'table' or not said.err then return said end
  if string.find(said.err, 'WRONGTYPE', 1, true) then redis.call('DEL', key) end
  return redis.call(command, key, ...)
end

-- The version that stands; 0: there is none.
local function standing()
  local raw = redis.pcall('GET', entry)
  if type(raw) ~= 'string' then return 0 end
  local version, ends = string.match(raw, '^(%d+) (%d+)\n')
  if not version or #version > DIGITS or #ends > DIGITS then return 0 end
  return tonumber(version) < MOST and tonumber(version) or 0
end

-- The number of a change that happens now; where the count is lost it goes on from what there is.
local function count(stands)
  local key = base .. 'entry-changes:' .. kind
  local number = redis.pcall('INCR', key)
  if type(number) == 'number' and number > stands and number > 1 and number < MOST then return number end
  local items = redis.pcall('XREVRANGE', base .. 'topic:' .. ARGV[3], '+', '-', 'COUNT', 1)
  local epoch, last = string.match(items[1] and items[1][1] or '', '^(%d+)-(%d+)$')
  if epoch == EPOCH and tonumber(last) < MOST then stands = math.max(stands, tonumber(last) - 1) end
  redis.call('SET', key, string.format('%.0f', stands + 1))
  return stands + 1
end

-- Append a change to the topic, whose numbers begin at 1; returns why nobody could be told, or ''.
local function tell(number, version)
  local topic = base .. 'topic:' .. ARGV[3]
  local id = EPOCH .. string.format('-%.0f', number + 1)
  local item = cmsgpack.pack({name, version})
  local said = redis.pcall('XADD', topic, 'MAXLEN', ARGV[4], id, 'item', item)
  if said.err then
    redis.call('DEL', topic) -- other hands wrote there
    redis.call('XADD', topic, 'MAXLEN', ARGV[4], id, 'item', item)
  end
  redis.call('PEXPIRE', topic, ARGV[5])
  local told = redis.pcall('PUBLISH', topic, '')
  return type(told) == 'table' and told.err or ''
end
