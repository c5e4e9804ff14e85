-- include latch_hold
-- Carry out holds and arrivals, in their order.
--
-- ARGV[1]  who brings them
-- ARGV[2]  packed by MessagePack, of each: {'hold', name, count, parts, policy, until, keep, sends,
--          on_failure, root} or {'arrive', name, part, whether it is ok, value, adds}. Of sends, on_failure,
--          value and adds it is said where they begin in ARGV, and of the first two how many they are.
--          adds are packed as well; 0: there are none.
-- Returns the names of those whose sender that one is then.
local function is_numbered(latch, name)
  return #name <= 15 and (name == '0' or string.match(name, '^[1-9]%d*$')) and tonumber(name) < latch.count
end

-- Its parts as they are to be written: each name and what it is, and where that stands in there.
local function store(latch, name, part)
  local parts, places = latch.parts or {}, latch.places or {}
  latch.parts, latch.places = parts, places
  local at = places[name]
  if not at then
    at = #parts + 2
    parts[at - 1], places[name] = name, at
  end
  parts[at] = part
end

local function known(latch, name)
  local at = latch.places and latch.places[name]
  if at then return latch.parts[at] end
  local part = redis.pcall('HGET', base .. 'latch-parts:' .. latch.name, name)
  if type(part) ~= 'table' then return part end
  if not string.find(part.err, 'WRONGTYPE', 1, true) then error(part.err) end
  redis.call('DEL', base .. 'latch-parts:' .. latch.name) -- other hands wrote it
  return false
end

-- What unpack makes of these; other hands may have written them.
local function read(otherwise, unpack_it, ...)
  local done, value = pcall(unpack_it, ...)
  return done and type(value) == type(otherwise) and value or otherwise
end

local function count(latch, state, change)
  if state == 'p' then
    latch.missing = latch.missing + change
  elseif state == 'f' then
    latch.failed = latch.failed + change
  end
end

-- It has these parts, too; what has arrived as one of them counts, with what that adds.
local function add(latch, packed)
  local left = {packed}
  for _, names in ipairs(left) do -- it grows meanwhile, by what is added: once each
    for _, name in ipairs(read({}, cmsgpack.unpack, names)) do
      local part = known(latch, name)
      local kind = part and string.sub(part, 1, 1)
      if is_numbered(latch, name) then
        -- It has that.
      elseif not part then
        store(latch, name, 'p')
        count(latch, 'p', 1)
      elseif kind == 'F' or kind == 'O' then
        local size = read(0, struct.unpack, '>I4', part, 2)
        store(latch, name, string.lower(kind) .. string.sub(part, 6 + size))
        count(latch, string.lower(kind), 1)
        if size > 0 then left[#left + 1] = string.sub(part, 6, 5 + size) end
      end
    end
  end
end

local ORDER = {p = 0, f = 1, F = 1, o = 2, O = 2}

local function arrive(latch, name, ok, value, adds)
  lapse(latch)
  if latch.is_over then return end
  local part, state = known(latch, name), ok and 'o' or 'f'
  local before = part and string.sub(part, 1, 1)
  if not part and is_numbered(latch, name) then before = 'p' end
  if ORDER[state] <= (ORDER[before] or 0) then return end
  if before ~= 'p' and before ~= 'f' then
    store(latch, name, string.upper(state) .. struct.pack('>I4', #adds) .. adds .. value)
    return
  end
  store(latch, name, state .. value)
  count(latch, before, -1)
  count(latch, state, 1)
  if #adds > 0 and not latch.released_at then add(latch, adds) end
  settle(latch)
end

local latches, changed, names, taken = {}, {}, {}, {}
for _, effect in ipairs(cmsgpack.unpack(ARGV[2])) do
  local name = effect[2]
  if latches[name] == nil then
    latches[name] = find(name) or false
    names[#names + 1] = name
  end
  if effect[1] == 'hold' then
    if not latches[name] then
      latches[name] = hold(name, unpack(effect, 3))
    end
  elseif latches[name] then
    local adds = effect[6] > 0 and ARGV[effect[6]] or ''
    arrive(latches[name], effect[3], effect[4], ARGV[effect[5]], adds)
    changed[name] = true
  end
end
for _, name in ipairs(names) do
  if latches[name] and take(latches[name], ARGV[1], SENDER_AWAY) then
    taken[#taken + 1] = name
    changed[name] = true
  end
  if changed[name] then write(latches[name]) end
end
return taken
