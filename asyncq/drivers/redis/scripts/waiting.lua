-- Where messages wait: decided here alone, whether they are sent, given back, replayed, recovered or due.
--
--   :delayed      until they are due
--   :suspects     if they outlived a worker
--   :doomed       if there is a verdict on them
--   :ready:<0-9>  by their priority
--
-- A script places all that it moves, checks these places, and then writes.
local lines, delayed, first_due = {}, {}, nil

-- The key of a line; the digit is made of its code, as a text of a number costs as much as a command.
local function key_of(line)
  return base .. (type(line) == 'string' and ':' .. line or ':ready:' .. string.char(48 + line))
end

-- A blob is a MessagePack array that begins with the priority, a digit; other hands may write others.
local function priority_of(blob)
  local priority = string.byte(blob or '', 2) or 0
  return priority <= 9 and priority or 0
end

-- A blob as this queue keeps it: with no priority above the highest that it has.
local top
local function bounded(blob)
  local priority = priority_of(blob)
  if priority == 0 then return blob end
  top = top or tonumber(redis.call('HGET', base .. ':declared', 'top') or 9)
  if priority <= top then return blob end
  return string.sub(blob, 1, 1) .. string.char(top) .. string.sub(blob, 3)
end

-- The line that a message has for what has befallen it, if anything has. Most queues have no such message.
local has_such
local function line_of(id)
  if has_such == nil then has_such = redis.call('EXISTS', base .. ':crashes', base .. ':verdicts') > 0 end
  if not has_such then return nil end
  if redis.call('HEXISTS', base .. ':crashes', id) == 1 then return 'suspects' end
  return redis.call('HEXISTS', base .. ':verdicts', id) == 1 and 'doomed' or nil
end

-- Place a message, by its priority unless it has another line; `due` is in ms, and nil if it is.
local function place(id, priority, line_of_it, due)
  if due and due > now_ms() then
    delayed[#delayed + 1] = due
    delayed[#delayed + 1] = string.char(48 + priority) .. id
    if not first_due or due < first_due then first_due = due end
    return
  end
  local name = line_of_it or priority
  local line = lines[name]
  if not line then line = {}; lines[name] = line end
  line[#line + 1] = id
end

local function check_places()
  for name in pairs(lines) do redis.call('LLEN', key_of(name)) end
  if first_due then redis.call('ZCARD', base .. ':delayed') end
end

-- Put what was placed there, in its order: at the end ('RPUSH') or at the head ('LPUSH').
-- Returns whether an idle worker has to be woken; it sleeps until the earliest is due.
local function put(push)
  local news = false
  for name, line in pairs(lines) do
    if push == 'LPUSH' then
      local size = #line
      for i = 1, math.floor(size / 2) do line[i], line[size + 1 - i] = line[size + 1 - i], line[i] end
    end
    redis.call(push, key_of(name), unpack(line))
    news = true
  end
  if first_due then
    local head = redis.call('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')
    redis.call('ZADD', base .. ':delayed', unpack(delayed))
    news = news or not head[2] or first_due < tonumber(head[2])
  end
  return news
end

