-- What every script begins with: the queue, the time, whom to wake. What is made here is made, and
-- collected, for each call: what few scripts need, or seldom, is included where it is needed.
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
