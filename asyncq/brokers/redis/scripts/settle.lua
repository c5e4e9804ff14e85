-- End deliveries; where the records live here too, keep and push them in the same step.
--
-- KEYS[1]  prefix:{queue}
-- ARGV     incarnation, whether this was sent before (0 or 1), prefix of the record keys,
--          prefix of the reply channels; then for each delivery eight values:
--            op        a: ack, n: nack, r: reject
--            id
--            suspect   0 or 1
--            detail    n: the new blob or '';  r: the reason
--            moment    n: '<priority>:<not before, in ms>:<delay, in ms>'
--            record    bytes, or '' for none
--            keep      ms to keep the record
--            address   where a client may wait for it, or ''
-- Returns the positions (from 0) of those that were not this incarnation's any more.
local base = KEYS[1]
local incarnation, resent, records, replies = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local held = base .. ':held:' .. incarnation
local bodies = base .. ':bodies'
local FIRST, WIDTH = 5, 8
local total = (#ARGV - 4) / WIDTH

local ids = {}
for i = 1, total do ids[i] = ARGV[FIRST + (i - 1) * WIDTH + 1] end
local mine = redis.call('SMISMEMBER', held, unpack(ids))

local fenced, gone, acked, back, heard = {}, {}, {}, {}, {}
local now, wake = nil, false
for i = 1, total do
  local at = FIRST + (i - 1) * WIDTH
  local op, id, suspect = ARGV[at], ids[i], ARGV[at + 2]
  if mine[i] == 0 then
    -- Sent before and still leased: the first sending did this, and only its reply was lost.
    if resent == '0' or not redis.call('ZSCORE', base .. ':leases', incarnation) then
      fenced[#fenced + 1] = i - 1
    end
  else
    gone[#gone + 1] = id
    if suspect == '1' then
      redis.call('HDEL', base .. ':lanes', incarnation)
    end
    if op == 'a' then
      acked[#acked + 1] = id
      if suspect == '1' then redis.call('HDEL', base .. ':crashes', id) end
    else
      if not now then
        local time = redis.call('TIME')
        now = time[1] * 1000 + math.floor(time[2] / 1000)
      end
      if op == 'n' then
        local blob = ARGV[at + 3]
        if blob ~= '' then redis.call('HSET', bodies, id, blob) end
        local priority, eta, delay = string.match(ARGV[at + 4], '(%d):(%d+):(%d+)')
        local due = math.max(tonumber(eta), delay == '0' and 0 or now + tonumber(delay))
        if due > now then
          redis.call('ZADD', base .. ':delayed', due, priority .. id)
          wake = true -- it may be the next one due: let a sleeper look again
        elseif suspect == '1' then
          redis.call('LPUSH', base .. ':suspects', id)
        else
          back[#back + 1] = base .. ':ready:' .. priority
          back[#back + 1] = id
        end
      else
        redis.call('HSET', base .. ':dead:bodies', id, redis.call('HGET', bodies, id) or '')
        redis.call('HSET', base .. ':dead:reasons', id, ARGV[at + 3])
        redis.call('ZADD', base .. ':dead', now, id)
        local crashes = redis.call('HGET', base .. ':crashes', id)
        if crashes then
          redis.call('HSET', base .. ':dead:crashes', id, crashes)
          redis.call('HDEL', base .. ':crashes', id)
        end
        acked[#acked + 1] = id
      end
    end
    local record = ARGV[at + 5]
    if record ~= '' then
      local keep, address = ARGV[at + 6], ARGV[at + 7]
      local stands = true
      if keep ~= '0' then
        stands = redis.call('SET', records .. id, record, 'PX', keep, 'NX')
      end
      if stands and address ~= '' then
        local list = heard[address]
        if not list then list = {}; heard[address] = list end
        list[#list + 1] = record
      end
    end
  end
end

if #gone > 0 then redis.call('SREM', held, unpack(gone)) end
if #acked > 0 then redis.call('HDEL', bodies, unpack(acked)) end
for i = #back - 1, 1, -2 do redis.call('LPUSH', back[i], back[i + 1]) end
if (wake or #back > 0) and redis.call('EXISTS', base .. ':wake') == 0 then
  redis.call('LPUSH', base .. ':wake', 1)
end
for address, list in pairs(heard) do
  -- A MessagePack array of records, each of them encoded already.
  redis.call('PUBLISH', replies .. address, struct.pack('>BI4', 0xdd, #list) .. table.concat(list))
end
return fenced
