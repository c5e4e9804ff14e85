-- Some of the entries of a kind; names that have none any more are removed.
--
-- KEYS[1]  what all our keys begin with, and a colon
-- ARGV     kind, the name to read on after or '', limit
-- Returns  {the count of changes, the name to read on after or '', name and value of each}.
local base, kind, after, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local begin = after == '' and '-' or '(' .. after
local names = redis.pcall('ZRANGEBYLEX', base .. 'entries:' .. kind, begin, '+', 'LIMIT', 0, limit + 1)
local changes = redis.pcall('GET', base .. 'entry-changes:' .. kind)
local page = {type(changes) == 'string' and changes or '', #names > limit and names[limit] or ''}
for i = 1, math.min(#names, limit) do
  local value = redis.pcall('GET', base .. 'entry:' .. kind .. ':' .. names[i])
  if type(value) == 'string' then
    page[#page + 1] = names[i]
    page[#page + 1] = value
  else
    redis.pcall('ZREM', base .. 'entries:' .. kind, names[i])
  end
end
return page
