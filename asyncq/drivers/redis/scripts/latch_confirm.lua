-- include latches
-- What a latch has released is sent.
--
-- ARGV     name, whether it is from on_failure (0 or 1), the place behind the last, when it was released
local name, is_failure, through = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local latch = find(name)
if not latch then return end
local sent, held, kind, at = 'sent', 'held', 'latch-held:', latch.released_at
if is_failure then
  sent, held, kind, at = 'sent_on_failure', 'held_on_failure', 'latch-failure:', latch.failed_at
end
if at ~= tonumber(ARGV[4]) then return end -- one of its name before has released these
local upto = math.min(through, latch[held])
if upto > latch[sent] then
  redis.call('LTRIM', base .. kind .. name, upto - latch[sent], -1)
  latch[sent] = upto
end
if unsent_of(latch) <= 0 then plan(latch) end
write(latch)
