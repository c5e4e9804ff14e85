-- include latches
-- The next of what a latch has released and nobody has confirmed.
--
-- ARGV     name, limit
-- Returns  {whether it is from on_failure (0 or 1), the place of the first, when it was released, those}
--          or nothing.
local name, limit = ARGV[1], tonumber(ARGV[2])
local latch = find(name)
if not latch then return nil end
if latch.failed_at and latch.sent_on_failure < latch.held_on_failure then
  local sends = redis.call('LRANGE', base .. 'latch-failure:' .. name, 0, limit - 1)
  return {1, latch.sent_on_failure, latch.failed_at, sends}
end
if latch.released_at and latch.sent < latch.held then
  return {0, latch.sent, latch.released_at, redis.call('LRANGE', base .. 'latch-held:' .. name, 0, limit - 1)}
end
return nil
