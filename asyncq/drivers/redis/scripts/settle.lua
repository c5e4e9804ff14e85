-- End deliveries; where the records live here too, keep and push them in the same step.
--
-- KEYS[1]  prefix:{queue}
-- ARGV     incarnation, whether this was sent before (0 or 1), prefix of the record keys,
--          prefix of the reply channels, how many dead letters to keep and for how many ms, how many
--          groups; then for each group
--            how many deliveries, the number of the claim that brought them, ms to keep their
--            records, the address of who may wait or '',
--          and for each of its deliveries
--            op      a: ack, n: nack, r: reject; in capitals for a suspect
--            id
--            record  bytes, or '' for none
--          and for nack and reject two more
--            detail  the new blob or ''
--            moment  n: '<priority>:<not before, in ms>:<delay, in ms>';  r: the reason
--          and for reject one more
--            last    how its last attempt failed, or ''
-- Returns the positions (from 0) of those that were not this incarnation's any more, and behind them
-- how many dead letters gave way to new ones, as a negative number, if any did, and why nobody could
-- be told, as a text, if that was so.
-- include bury
local base = KEYS[1]
local incarnation, resent, records, replies = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local held = base .. ':held:' .. incarnation
local bodies = base .. ':bodies'

local ids, ops, numbers, spots, groups = {}, {}, {}, {}, {}
local at, total, plain = 8, 0, true
for group = 1, tonumber(ARGV[7]) do
  local from = total + 1
  total = total + tonumber(ARGV[at])
  local number = ARGV[at + 1]
  groups[group] = {from, total, ARGV[at + 2], ARGV[at + 3]}
  at = at + 4
  for i = from, total do
    numbers[i] = number
    local op = ARGV[at]
    ops[i], ids[i], spots[i] = op, ARGV[at + 1], at
    if op == 'a' then
      at = at + 3
    elseif op == 'A' then
      at, plain = at + 3, false
    elseif op == 'r' or op == 'R' then
      at, plain = at + 6, false
    else
      at, plain = at + 5, false
    end
  end
end
local claimed = redis.call('HMGET', held, unpack(ids))
-- Acknowledging may end half-way: sent again, it does the rest. What is put elsewhere may not.
if not plain then
  check_lines(base)
  check_dead(base)
  check_hashes(base, ':crashes', ':quarantine', ':declared')
  redis.call('ZCARD', base .. ':delayed')
  redis.call('EXISTS', records .. ids[1])
end
-- A full server refuses what needs memory, unless the script has written before; this writes nothing,
-- and counts. What has run must end: that makes room.
redis.call('HDEL', held, '')

local fenced, gone, acked, back = {}, {}, {}, {}
local dying, reasons, lasts = {}, {}, {}
local now, wake = nil, false
for i = 1, total do
  local op, id = ops[i], ids[i]
  if claimed[i] ~= numbers[i] then
    -- Sent before and still leased: the first sending did this, and only its reply was lost. Since
    -- then another claim of this worker may have brought the message again.
    if resent == '0' or not redis.call('ZSCORE', base .. ':leases', incarnation) then
      fenced[#fenced + 1] = i - 1
    end
  else
    gone[#gone + 1] = id
    local suspect = op < 'a'
    if suspect and redis.call('HINCRBY', base .. ':quarantine', incarnation, -1) <= 0 then
      redis.call('HDEL', base .. ':quarantine', incarnation)
    end
    if op == 'a' then
      acked[#acked + 1] = id
    elseif op == 'A' then
      acked[#acked + 1] = id
      redis.call('HDEL', base .. ':crashes', id)
    else
      local detail, moment = ARGV[spots[i] + 3], ARGV[spots[i] + 4]
      if not now then
        local time = redis.call('TIME')
        now = time[1] * 1000 + math.floor(time[2] / 1000)
      end
      if op == 'n' or op == 'N' then
        local priority, eta, delay = string.match(moment, '(%d):(%d+):(%d+)')
        if detail ~= '' then
          local top = redis.call('HGET', base .. ':declared', 'top')
          if top and tonumber(priority) > tonumber(top) then
            priority = top
            detail = string.sub(detail, 1, 1) .. string.char(top) .. string.sub(detail, 3)
          end
          redis.call('HSET', bodies, id, detail)
        end
        local due = math.max(tonumber(eta), delay == '0' and 0 or now + tonumber(delay))
        if due > now then
          redis.call('ZADD', base .. ':delayed', due, priority .. id)
          wake = true -- it may be the next one due: let a sleeper look again
        elseif suspect then
          redis.call('LPUSH', base .. ':suspects', id)
        else
          back[#back + 1] = base .. ':ready:' .. priority
          back[#back + 1] = id
        end
      else
        if detail ~= '' then redis.call('HSET', bodies, id, detail) end
        if suspect then
          local crashes = redis.call('HGET', base .. ':crashes', id)
          if crashes then
            redis.call('HSET', base .. ':dead:crashes', id, crashes)
            redis.call('HDEL', base .. ':crashes', id)
          end
        end
        dying[#dying + 1] = id
        reasons[#dying], lasts[#dying] = moment, ARGV[spots[i] + 5]
        acked[#acked + 1] = id
      end
    end
  end
end

local unheard = nil
for _, group in ipairs(groups) do
  local keep, address, heard = group[3], group[4], {}
  for i = group[1], group[2] do
    local record = ARGV[spots[i] + 2]
    if claimed[i] == numbers[i] and record ~= '' then
      local stands = keep == '0' or redis.call('SET', records .. ids[i], record, 'PX', keep, 'NX')
      if stands and address ~= '' then heard[#heard + 1] = record end
    end
  end
  if #heard > 0 then
    -- A MessagePack array of records, each of them encoded already.
    local head = struct.pack('>BI4', 0xdd, #heard)
    -- Who waits reads the record in the end, where we have no right to tell.
    local told = redis.pcall('PUBLISH', replies .. address, head .. table.concat(heard))
    if type(told) == 'table' then unheard = told.err end
  end
end
if #gone > 0 then redis.call('HDEL', held, unpack(gone)) end
local given_way = 0
if #dying > 0 then given_way = bury(base, dying, reasons, lasts, ARGV[5], ARGV[6]) end
if #acked > 0 then redis.call('HDEL', bodies, unpack(acked)) end
for i = #back - 1, 1, -2 do redis.call('LPUSH', back[i], back[i + 1]) end
if (wake or #back > 0) and redis.call('EXISTS', base .. ':wake') == 0 then
  redis.call('LPUSH', base .. ':wake', 1)
end
if given_way > 0 then fenced[#fenced + 1] = -given_way end
if unheard then fenced[#fenced + 1] = unheard end
return fenced
