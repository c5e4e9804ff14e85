-- Which keys of a queue are of another type than asyncq makes them.
--
-- ARGV[1]  an incarnation, of which what is in flight is looked at as well, or ''
-- Returns a text for each: '<key> is a <type>, not a <type>'.
local right = {
  [':bodies'] = 'hash', [':suspects'] = 'list', [':doomed'] = 'list', [':verdicts'] = 'hash',
  [':delayed'] = 'zset', [':quarantine'] = 'hash',
  [':crashes'] = 'hash', [':leases'] = 'zset', [':epochs'] = 'hash', [':wake'] = 'list',
  [':declared'] = 'hash', [':until'] = 'hash', [':active'] = 'string', [':standby'] = 'list',
  [':dead'] = 'zset', [':dead:bodies'] = 'hash', [':dead:reasons'] = 'hash',
  [':dead:last'] = 'hash', [':dead:crashes'] = 'hash', [':in_flight:' .. ARGV[1]] = 'hash',
}
for priority = 0, 9 do right[':ready:' .. priority] = 'list' end
local odd = {}
for name, kind in pairs(right) do
  local found = redis.call('TYPE', base .. name).ok
  if found ~= 'none' and found ~= kind then
    odd[#odd + 1] = base .. name .. ' is a ' .. found .. ', not a ' .. kind
  end
end
table.sort(odd)
return odd
