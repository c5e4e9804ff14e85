-- What the scripts for latches have in common; asyncq/drivers/latches.py says the same in Python.
--
-- KEYS[1]  what all our keys begin with, and a colon
-- Of each latch there are: latch:<name>, a hash, its numbers; latch-parts:<name>, a hash; and two lists,
-- latch-held:<name> and latch-failure:<name>, of what is not confirmed yet. 'latches', a sorted set, has
-- those to look at, by when. Times are in ms.
-- A part is a letter and its value: p (pending), f (failed), o (ok); of one that is not added yet F or
-- O, the length of what it adds in four bytes, that, and its value.
local base = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local FIRST_AUDIT, LONGEST_AUDIT, SENDER_AWAY = 60000, 3600000, 5000
local NUMBERS = {
  'count', 'missing', 'failed', 'until', 'keep', 'held', 'held_on_failure', 'released_at', 'failed_at',
  'is_over', 'sent', 'sent_on_failure', 'audits', 'look_at', 'forget_at'}
local NEEDED = {
  count = true, missing = true, failed = true, keep = true, held = true, held_on_failure = true,
  sent = true, sent_on_failure = true, audits = true}
local MOST = 2 ^ 53 -- of a number that was not written by other hands
local KINDS = {'latch:', 'latch-parts:', 'latch-held:', 'latch-failure:'}

-- What a latch has become. Nothing of it was written before, so that a script that fails half-way has
-- done nothing: its parts come just before the numbers that count them.
local function write(latch)
  if latch.look_at ~= latch.was_looked_at then
    if latch.look_at then
      redis.call('ZADD', base .. 'latches', latch.look_at, latch.name)
    else
      redis.call('ZREM', base .. 'latches', latch.name)
    end
  end
  local parts = latch.parts or {}
  for first = 1, #parts, 1000 do
    redis.call('HSET', base .. 'latch-parts:' .. latch.name, unpack(parts, first, math.min(first + 999, #parts)))
  end
  local fields = {'policy', latch.policy, 'sender', latch.sender}
  for _, name in ipairs(NUMBERS) do
    fields[#fields + 1] = name
    fields[#fields + 1] = latch[name] and string.format('%.0f', latch[name]) or ''
  end
  redis.call('HSET', base .. 'latch:' .. latch.name, unpack(fields))
  if latch.forget_at or latch.was_forgotten_at then
    for _, kind in ipairs(KINDS) do
      if latch.forget_at then
        redis.call('PEXPIREAT', base .. kind .. latch.name, string.format('%.0f', latch.forget_at))
      else
        redis.call('PERSIST', base .. kind .. latch.name)
      end
    end
  end
end

local function forget(name)
  for _, kind in ipairs(KINDS) do redis.call('UNLINK', base .. kind .. name) end
  redis.call('ZREM', base .. 'latches', name)
end

local function find(name)
  local raw = redis.pcall('HMGET', base .. 'latch:' .. name, 'policy', 'sender', unpack(NUMBERS))
  if raw.err then
    if string.find(raw.err, 'WRONGTYPE', 1, true) then return nil end -- other hands wrote it
    error(raw.err)
  end
  if not raw[1] then return nil end
  local latch = {name = name, policy = raw[1], sender = raw[2] or ''}
  for i, field in ipairs(NUMBERS) do
    local number = tonumber(raw[i + 2] or '')
    if number and not (number > -MOST and number < MOST) or (not number and NEEDED[field]) then return nil end
    latch[field] = number
  end
  if latch.forget_at and latch.forget_at <= now then return nil end
  latch.was_looked_at, latch.was_forgotten_at = latch.look_at, latch.forget_at
  return latch
end

local function unsent_of(latch)
  local count = latch.released_at and latch.held - latch.sent or 0
  if latch.failed_at then count = count + latch.held_on_failure - latch.sent_on_failure end
  return count
end

-- Say when to look at it next, or to forget it. What is unsent has just been released.
local function plan(latch)
  latch.sender = ''
  if unsent_of(latch) > 0 then
    latch.look_at, latch.forget_at = now + SENDER_AWAY, nil
  elseif latch.released_at or latch.failed_at then
    latch.look_at, latch.forget_at = nil, now + latch.keep
  else
    local pause = math.min(FIRST_AUDIT * 2 ^ math.min(latch.audits, 30), LONGEST_AUDIT)
    local left = latch.look_at and latch.look_at - now
    if not (left and left >= pause / 2 and left <= pause) then
      latch.look_at = now + pause
      if latch['until'] then latch.look_at = math.min(latch.look_at, latch['until']) end
    end
  end
end

-- Release what is to be released.
local function settle(latch)
  local was_unsent = unsent_of(latch) > 0 -- then its sender finds what comes to that
  if latch.failed > 0 and latch.policy == 'fail' and not latch.failed_at then latch.failed_at = now end
  local is_complete = latch.missing == 0 and (latch.failed == 0 or latch.policy == 'collect')
  if is_complete and not latch.released_at then latch.released_at = now end
  if not was_unsent then plan(latch) end
end

-- If its time is over, it fails.
local function lapse(latch)
  if latch['until'] and latch['until'] <= now and not latch.released_at then
    latch.is_over = 1
    if not latch.failed_at then
      latch.failed_at = now
      plan(latch)
    end
  end
end

-- Make this one the sender of what is unsent for so long, if it may be; returns whether it is.
local function take(latch, sender, lease)
  if unsent_of(latch) <= 0 then return false end
  local is_anothers = latch.sender ~= '' and latch.sender ~= sender
  if is_anothers and latch.look_at and latch.look_at > now then return false end
  latch.sender, latch.look_at = sender, now + lease
  return true
end
