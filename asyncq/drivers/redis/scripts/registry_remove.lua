-- include registry
-- Remove an entry if this version of it stands.
--
-- ARGV     behind those of all: version, or '' for any
-- Returns  {why nobody could be told or ''}, or nothing.
local stands = standing()
if stands == 0 or (ARGV[6] ~= '' and stands ~= tonumber(ARGV[6])) then return nil end
redis.call('UNLINK', entry)
sure('ZREM', entries, name)
sure('ZREM', ends_of, name)
return {tell(count(stands), 0)}
