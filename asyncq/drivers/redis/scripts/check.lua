-- For scripts that move messages (they include this): fail before the first write and not half-way.
--
-- A key may be of another type than asyncq makes it, or not ours to use. Each of these reads raises
-- what a write would. What is only read in any case, before all writes, need not be checked.
local function check_hashes(base, ...)
  for _, name in ipairs({...}) do redis.call('HLEN', base .. name) end
end
local function check_lines(base)
  redis.call('LLEN', base .. ':suspects')
  for priority = 0, 9 do redis.call('LLEN', base .. ':ready:' .. priority) end
end
local function check_dead(base)
  redis.call('ZCARD', base .. ':dead')
  check_hashes(base, ':bodies', ':dead:bodies', ':dead:reasons', ':dead:last', ':dead:crashes')
end
