-- What every script begins with: the queue, the time, whom to wake, what is checked beforehand.
--
-- KEYS[1]  prefix:{queue}; nothing else is in KEYS
local base = KEYS[1]

-- In ms, and one moment for all that a script does.
local moment
local function now_ms()
  if not moment then
    local time = redis.call('TIME')
    moment = time[1] * 1000 + time[2] / 1000
  end
  return moment
end

-- Wake one of those who wait at this key: idle workers at ':wake', who wants the queue at ':standby'.
local function wake(key)
  if redis.call('EXISTS', base .. key) == 0 then redis.call('LPUSH', base .. key, 1) end
end

-- A script that moves messages has to fail before its first write, not half-way. A key may be of
-- another type than asyncq makes it, or not ours to use: this reads them, and raises what a write
-- would. What is read in any case, before all writes, need not be checked.
local function check_hashes(...)
  for _, name in ipairs({...}) do redis.call('HLEN', base .. name) end
end

-- Take these ids out of these hashes.
local function forget(ids, ...)
  if #ids == 0 then return end
  for _, name in ipairs({...}) do redis.call('HDEL', base .. name, unpack(ids)) end
end

