-- Taking messages out of circulation that nobody has settled.
-- include dead
-- include doomed
-- Make dead letters of messages that are in no place any more, as `bury` does, and doom those of them
-- whose end arrives somewhere. Returns how many dead letters gave way.
local function doom_or_bury(ids, why, most, keep)
  local mortal, reasons = doom(ids, why, ':doomed'), {}
  for i = 1, #mortal do reasons[i] = why end
  return bury(mortal, reasons, {}, most, keep)
end
