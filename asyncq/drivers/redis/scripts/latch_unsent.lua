-- include latches
-- The next of one line of what a latch has released and nobody has confirmed, for its sender.
--
-- ARGV     name, who asks, whether it is on_failure (0 or 1), limit
-- Returns  {the place of the first, when it was released, those}, or nothing.
local name, is_failure, limit = ARGV[1], ARGV[3] == '1', tonumber(ARGV[4])
local latch = find(name)
if not latch or not take(latch, ARGV[2], SENDER_AWAY) then return nil end
local sent, held, kind, at = latch.sent, latch.held, 'latch-held:', latch.released_at
if is_failure then
  sent, held, kind, at = latch.sent_on_failure, latch.held_on_failure, 'latch-failure:', latch.failed_at
end
local page
if at and sent < held then page = {sent, at, redis.call('LRANGE', base .. kind .. name, 0, limit - 1)} end
write(latch)
return page
