-- The keys in which messages wait that are due, but for the doomed.
local function line_keys()
  return {
    base .. ':suspects', base .. ':ready:0', base .. ':ready:1', base .. ':ready:2', base .. ':ready:3',
    base .. ':ready:4', base .. ':ready:5', base .. ':ready:6', base .. ':ready:7', base .. ':ready:8',
    base .. ':ready:9',
  }
end
