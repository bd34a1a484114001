-- What holds now: limits with their values and counts, sessions with their leases.
--
-- Guarantee: one instant. Dead sessions are reclaimed first, so what they held isn't shown.
-- ARGV[2] limit (or null: all that are set at run time, configured by a live session, or limited)
-- Reply   {status: "ok", now (wall time, ms), version, live, limits: [{limit, max (-1 unlimited), paused,
--          configured (null), override (null), held, idle, waiting, parked (where it has no place), longest (ms that
--          any of the first in line has waited; absent where nobody waits), ended (tasks in the last minute),
--          settling}...],
--          sessions: [{session, lease (ms left), interval and timeout (ms), queues, info, config, permits, waiting, room,
--          stall: {why, slots, since (ms)} where it starts nothing though slots are free}...]}
-- Cost    O(limits + sessions + holders + waiters)
expect({ limit = function(it) return it == cjson.null or limit_name(it) end })
begin()
finish()
local names, seen = {}, {}
local function name(limit)
  if not seen[limit] then
    seen[limit] = true
    table.insert(names, limit)
  end
end
if asked.limit ~= cjson.null then
  name(asked.limit)
else
  for _, key in ipairs({ MAX, CONFIGURED, OVERRIDES }) do
    for _, limit in ipairs(call('HKEYS', key)) do name(limit) end
  end
end
table.sort(names)

local idle, parked, sessions = {}, {}, {}
for _, sid in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
  local permits, waiting = 0, 0
  for limit, more in pairs(cjson.decode(call('HGET', SESSION, sid .. ':parked') or '{}')) do
    parked[limit] = (parked[limit] or 0) + more
  end
  for _, member in ipairs(call('ZRANGEBYLEX', ROLL, '[' .. sid .. ':', '(' .. sid .. ';')) do
    local record = load(sid .. ':' .. string.match(member, ':%d+:(.*)$'))
    if record and record.g > 0 then
      permits = permits + 1
      if record.i == 1 then
        for _, limit in ipairs(record.l) do idle[limit] = (idle[limit] or 0) + 1 end
      end
    else
      waiting = waiting + 1
    end
  end
  table.insert(sessions, {
    session = sid, lease = tonumber(call('ZSCORE', SESSIONS, sid)) - clock, permits = permits, waiting = waiting,
    room = room(sid), info = cjson.decode(call('HGET', SESSION, sid .. ':info') or '{}'),
    config = cjson.decode(call('HGET', SESSION, sid .. ':config') or '{}'),
    queues = cjson.decode(call('HGET', SESSION, sid .. ':queues') or '[]'),
    interval = tonumber(call('HGET', SESSION, sid .. ':interval')) or 0,
    timeout = tonumber(call('HGET', SESSION, sid .. ':timeout')) or 0,
    stall = cjson.decode(call('HGET', SESSION, sid .. ':stall') or 'null'),
  })
end

local function ended(limit)
  local total, sum = call('HGET', TOTALS, limit), 0
  for _, pair in ipairs(total and cjson.decode(total).lately or {}) do
    if pair[1] > math.floor(now / SLOT) - SLOTS then sum = sum + pair[2] end
  end
  return sum
end

local FIRST = 32 -- how many of a line are looked at for the longest wait
local function longest(limit)
  local most = nil
  for _, member in ipairs(call('ZRANGEBYLEX', WAITERS, first(limit), last(limit), 'LIMIT', 0, FIRST)) do
    local record = load(string.match(string.sub(member, #limit + 2), US .. '(.*)$'))
    if record then most = math.max(most or 0, waited(record)) end
  end
  return most
end

local limits = {}
for _, limit in ipairs(names) do
  local override = call('HGET', OVERRIDES, limit)
  override = override and cjson.decode(override) or {}
  local configured = tonumber(call('HGET', CONFIGURED, limit))
  local max = override.max ~= cjson.null and override.max or configured or -1
  local paused, settling, taken = override.paused or false, fresh[limit] ~= nil or shut ~= nil, held(limit)
  local is_closed = paused or settling or (max >= 0 and taken - (idle[limit] or 0) >= max)
  table.insert(limits, {
    limit = limit, max = max, paused = paused, configured = configured or cjson.null,
    override = next(override) and override or cjson.null, held = taken, idle = idle[limit] or 0, settling = settling,
    waiting = call('ZLEXCOUNT', WAITERS, first(limit), last(limit)), parked = is_closed and parked[limit] or 0,
    longest = longest(limit), ended = ended(limit),
  })
end
return cjson.encode({ status = 'ok', now = now, version = version, live = #sessions, limits = limits, sessions = sessions })
