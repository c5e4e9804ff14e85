-- Messages whose end arrives somewhere: what would bury or remove them dooms them instead.
-- include hashes
-- Besides ':bodies' and ':until', which the scripts that doom check anyway.
local function check_doomed()
  redis.call('LLEN', base .. ':doomed')
  check_hashes(':verdicts')
end

-- Give those of these messages the verdict whose end arrives somewhere, unless they have one, and put
-- them in this line; they are in no place any more. Returns the others, and how many had one.
local function doom(ids, verdict, line)
-- include ends
  local others, doomed, had = {}, {}, 0
  for _, id in ipairs(ids) do
    -- One by one: some bodies are large, and purging is what makes room.
    if has_ends(redis.call('HGET', base .. ':bodies', id) or '') then
      doomed[#doomed + 1] = id
      had = had + 1 - redis.call('HSETNX', base .. ':verdicts', id, verdict)
    else
      others[#others + 1] = id
    end
  end
  if #doomed > 0 then
    redis.call('RPUSH', base .. line, unpack(doomed))
    forget(doomed, ':until')
  end
  return others, had
end
