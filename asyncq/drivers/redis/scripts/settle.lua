-- End deliveries; where the records live here too, keep and push them in the same step.
--
-- ARGV[1-6] incarnation, whether this was sent before (0 or 1), prefix of the record keys, prefix of
--           the reply channels, how many dead letters to keep and for how many ms
-- ARGV[7]   groups of deliveries, packed by MessagePack: of each, in this order
--             claim    number of the claim that brought them, as a text
--             keep     ms to keep their records, as a text; '0': not
--             address  of who may wait, or ''
--             acks     ids of those that are done, and neither suspects nor doomed
--             records  where in ARGV their records begin; 0: they have none
--             others   of each: op ('ack', 'nack', 'reject'), id, suspect, doomed, record, blob (a new
--                      one); of a nack: not_before, delay (ms); of a reject: reason, last (how its
--                      last attempt failed)
--             stays    whether none of these is ended: what is in acks may be anything, and others is empty
-- ARGV      bytes that those name by their place here, 0 for none: record, blob, last
-- Returns {positions (from 0) of those that were not this incarnation's any more, how many dead letters
-- gave way to new ones, why nobody could be told or '', ids and records of what stood before, of those
-- that stay}.
local incarnation, is_resent, records, replies = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]
local in_flight, bodies = base .. ':in_flight:' .. incarnation, base .. ':bodies'

local groups, ids = cmsgpack.unpack(ARGV[7]), {}
for _, group in ipairs(groups) do
  local _, _, _, acks, _, others = unpack(group)
  for _, id in ipairs(acks) do ids[#ids + 1] = id end
  for _, other in ipairs(others) do ids[#ids + 1] = other.id end
end
local claims = redis.call('HMGET', in_flight, unpack(ids))

local fenced, ended, acked, others, at = {}, {}, {}, {}, 0
for _, group in ipairs(groups) do
  local claim, _, _, acks, _, rest, stays = unpack(group)
  for i = 1, #acks do
    at = at + 1
    if claims[at] == claim then
      if not stays then ended[#ended + 1], acked[#acked + 1] = acks[i], acks[i] end
    else
      fenced[#fenced + 1] = at - 1
      acks[i] = false
    end
  end
  for _, other in ipairs(rest) do
    at = at + 1
    if claims[at] == claim then
      ended[#ended + 1], others[#others + 1] = other.id, other
    else
      fenced[#fenced + 1] = at - 1
      other.record = 0
    end
  end
end
-- Sent before and still leased: the first sending did this, and only its reply was lost. Since then
-- another claim of this worker may have brought the message again.
if #fenced > 0 and is_resent and redis.call('ZSCORE', base .. ':leases', incarnation) then fenced = {} end

-- Acknowledging may end half-way: sent again, it does the rest. What is put elsewhere may not. Most
-- batches have nothing of it, and do not pay for what it takes: a function costs as much as a command.
local put_others
if #others > 0 then
-- include waiting
-- include dead
-- include leases
  local blobs, cleared, judged, leaving = {}, {}, {}, 0
  local dying, reasons, lasts = {}, {}, {}
  for _, other in ipairs(others) do
    local id, blob = other.id, ARGV[other.blob]
    if other.suspect then leaving = leaving + 1 end
    if other.doomed and other.op ~= 'nack' then judged[#judged + 1] = id end
    if blob then
      blob = bounded(blob)
      blobs[#blobs + 1] = id
      blobs[#blobs + 1] = blob
    end
    if other.op == 'ack' then
      acked[#acked + 1], cleared[#cleared + 1] = id, id
    elseif other.op == 'nack' then
      local due = other.delay > 0 and now_ms() + other.delay or 0
      local priority = priority_of(blob or redis.call('HGET', bodies, id))
      local line = other.suspect and 'suspects' or other.doomed and 'doomed'
      place(id, priority, line, math.max(other.not_before, due))
    else
      dying[#dying + 1] = id
      reasons[#dying], lasts[#dying] = other.reason, ARGV[other.last]
    end
  end
  check_places()
  check_dead()
  redis.call('HLEN', base .. ':quarantine')
  if #judged > 0 then redis.call('HLEN', base .. ':verdicts') end
  redis.call('EXISTS', records .. ids[1])

  put_others = function()
    leave_quarantine(incarnation, leaving)
    if #cleared > 0 then redis.call('HDEL', base .. ':crashes', unpack(cleared)) end
    forget(judged, ':verdicts')
    if #blobs > 0 then redis.call('HSET', bodies, unpack(blobs)) end
    local given_way = bury(dying, reasons, lasts, ARGV[5], ARGV[6])
    if put('LPUSH') then wake(':wake') end
    return given_way
  end
end
-- A full server refuses what needs memory, unless the script has written before; this writes nothing,
-- and counts. What has run must end: that makes room.
redis.call('HDEL', in_flight, '')

-- Keep a record, unless one stands for its id; returns whether it is news.
local function keep_record(id, record, keep)
  return keep == '0' or redis.call('SET', records .. id, record, 'PX', keep, 'NX')
end

local unheard, stood = '', {}
for _, group in ipairs(groups) do
  local _, keep, address, acks, first, rest, stays = unpack(group)
  local heard = {}
  if first > 0 then
    for i, id in ipairs(acks) do
      local record = ARGV[first + i - 1]
      if id then
        if keep_record(id, record, keep) then
          heard[#heard + 1] = record
        elseif stays then
          local standing = redis.pcall('GET', records .. id) -- other hands may have put there no text
          stood[#stood + 1] = id
          stood[#stood + 1] = type(standing) == 'string' and standing or ''
        end
      end
    end
  end
  for _, other in ipairs(rest) do
    local record = ARGV[other.record]
    if record and keep_record(other.id, record, keep) then heard[#heard + 1] = record end
  end
  if #heard > 0 and address ~= '' then
    -- A MessagePack array of records, each of them encoded already.
    local head = struct.pack('>BI4', 0xdd, #heard)
    -- Who waits reads the record in the end, where we have no right to tell.
    local told = redis.pcall('PUBLISH', replies .. address, head .. table.concat(heard))
    if type(told) == 'table' then unheard = told.err end
  end
end
if #ended > 0 then redis.call('HDEL', in_flight, unpack(ended)) end
local given_way = put_others and put_others() or 0
if #acked > 0 then redis.call('HDEL', bodies, unpack(acked)) end
return {fenced, given_way, unheard, stood}
