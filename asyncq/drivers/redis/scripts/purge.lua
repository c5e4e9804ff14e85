-- Remove waiting messages, due and delayed, a bounded number of them. What is doomed stays.
--
-- ARGV[1]  how many suspects are still to be looked at; '': as many as there are
-- Returns  {how many were removed, how many were looked at, suspects still to be looked at}; about 1500
--          are looked at, and none when none is left.
-- include lines
-- include doomed
local keys, verdict = line_keys(), 'Purged: what waited in its queue was removed on request'
check_doomed()
check_hashes(':bodies', ':crashes', ':until')
redis.call('ZCARD', base .. ':delayed')
for _, key in ipairs(keys) do redis.call('LLEN', key) end

-- From the head, and what stays goes to the end: once all were looked at, they lie as before.
local unseen = math.min(redis.call('LLEN', base .. ':suspects'), tonumber(ARGV[1]) or math.huge)
local suspects = unseen > 0 and redis.call('LPOP', base .. ':suspects', math.min(unseen, 500)) or {}
unseen = unseen - #suspects
local ids = {}
for i, key in ipairs(keys) do
  local line = i > 1 and #ids < 500 and redis.call('LPOP', key, 500 - #ids)
  for _, id in ipairs(line or {}) do ids[#ids + 1] = id end
end
local members = redis.call('ZRANGE', base .. ':delayed', 0, 499)
if #members > 0 then redis.call('ZREM', base .. ':delayed', unpack(members)) end
for _, member in ipairs(members) do
  local id = string.sub(member, 2)
  local line = redis.call('HEXISTS', base .. ':crashes', id) == 1 and suspects or ids
  line[#line + 1] = id
end

local seen, stay, had = #suspects + #ids, 0, 0
for line, these in pairs({[':suspects'] = suspects, [':doomed'] = ids}) do
  local gone, before = doom(these, verdict, line)
  forget(gone, ':bodies', ':crashes', ':until', ':verdicts')
  stay, had = stay + #these - #gone, had + before
end
if stay > 0 then wake(':wake') end
return {seen - had, seen, unseen}
