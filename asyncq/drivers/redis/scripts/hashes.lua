-- A script that moves messages has to fail before its first write, not half-way. A key may be of
-- another type than asyncq makes it, or not ours to use: this reads them, and raises what a write
-- would. What is read in any case, before all writes, need not be checked.
local function check_hashes(...)
  for _, name in ipairs({...}) do redis.call('HLEN', base .. name) end
end

-- Take these ids out of these hashes.
local function forget(ids, ...)
  if #ids == 0 then return end
  for _, name in ipairs({...}) do redis.call('HDEL', base .. name, unpack(ids)) end
end
