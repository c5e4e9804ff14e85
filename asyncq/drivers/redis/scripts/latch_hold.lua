-- include latches
-- How a latch begins. Of its sends and on_failure it is said where they begin in ARGV, and how many they are.
local MANY = 1000 -- values that a command is given at a time

local function push(kind, name, from, many)
  for first = from, from + many - 1, MANY do
    redis.call('RPUSH', base .. kind .. name, unpack(ARGV, first, math.min(first + MANY, from + many) - 1))
  end
end

local function hold(name, numbered, parts, policy, ends, keep, sends, on_failure, root)
  forget(name)
  local latch = {
    name = name, count = numbered, missing = numbered, failed = 0, policy = policy, keep = keep,
    held = sends[2], held_on_failure = on_failure[2], sent = 0, sent_on_failure = 0, audits = 0, sender = ''}
  if ends > 0 then latch['until'] = ends end
  push('latch-held:', name, sends[1], sends[2])
  push('latch-failure:', name, on_failure[1], on_failure[2])
  for first = 1, #parts, MANY do
    local fields = {}
    for i = first, math.min(first + MANY - 1, #parts) do
      fields[#fields + 1] = parts[i]
      fields[#fields + 1] = 'p'
    end
    latch.missing = latch.missing + redis.call('HSET', base .. 'latch-parts:' .. name, unpack(fields))
  end
  settle(latch)
  redis.call('HSET', base .. 'latch:' .. name, 'root', root)
  write(latch)
  latch.was_looked_at, latch.was_forgotten_at = latch.look_at, latch.forget_at
  return latch
end
