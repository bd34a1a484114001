-- uses: input meta time clock members limits overrides permits rooms counters epochs reply
-- What holds now: limits with their values and counts, sessions with their leases.
--
-- Guarantee: one instant. Dead sessions are reclaimed first, so what they held isn't shown.
-- ARGV[2] limit (or null: all that are set at run time, configured by a live session, or limited)
-- Reply   {status: "ok", now (wall time, ms), version, live, limits: [{limit, max (-1 unlimited), paused,
--          configured (null), override (null), held, idle, waiting, parked (where it has no room), longest (ms that
--          any of the first in line has waited; absent where nobody waits), ended (tasks in the last minute),
--          settling}...],
--          sessions: [{session, lease (ms left), interval and timeout (ms), queues, info, config, permits, waiting, room,
--          stall: {why, slots, since (ms)} where it starts nothing though slots are free}...]}
-- Cost    O(limits + sessions + holders + waiters)
local asked = input.asked
local SESSION = key.session
local first, last = members.first, members.last
input.expect({ limit = function(it) return it == cjson.null or input.limit_name(it) end })
epochs.begin()
reply.finish()
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
  for _, hash in ipairs({ key.max, key.overrides }) do
    for _, limit in ipairs(call('HKEYS', hash)) do name(limit) end
  end
end

local idle, parked, live = {}, {}, {}
for _, sid in ipairs(call('ZRANGEBYSCORE', key.sessions, '(' .. members.int(clock.at), '+inf')) do
  local holding, waiting = 0, 0
  for limit, more in pairs(cjson.decode(call('HGET', SESSION, sid .. ':parked') or '{}')) do
    parked[limit] = (parked[limit] or 0) + more
  end
  for _, member in ipairs(call('ZRANGEBYLEX', key.roll, members.roll_of(sid))) do
    local record = permits.load(sid .. ':' .. string.match(member, ':%d+:(.*)$'))
    if record and record.g > 0 then
      holding = holding + 1
      if record.i == 1 then
        for _, claim in ipairs(record.c) do idle[claim[1]] = (idle[claim[1]] or 0) + 1 end
      end
    else
      waiting = waiting + 1
    end
  end
  local config = cjson.decode(call('HGET', SESSION, sid .. ':config') or '{}')
  if asked.limit == cjson.null then
    for limit in pairs(config) do name(limit) end
  end
  table.insert(live, {
    session = sid, lease = tonumber(call('ZSCORE', key.sessions, sid)) - clock.at, permits = holding, waiting = waiting,
    room = rooms.of(sid), info = cjson.decode(call('HGET', SESSION, sid .. ':info') or '{}'),
    config = config,
    queues = cjson.decode(call('HGET', SESSION, sid .. ':queues') or '[]'),
    interval = tonumber(call('HGET', SESSION, sid .. ':interval')) or 0,
    timeout = tonumber(call('HGET', SESSION, sid .. ':timeout')) or 0,
    stall = cjson.decode(call('HGET', SESSION, sid .. ':stall') or 'null'),
  })
end

table.sort(names)

local function ended(limit)
  local total, sum = call('HGET', key.totals, limit), 0
  for _, pair in ipairs(total and cjson.decode(total).lately or {}) do
    if pair[1] > math.floor(time.now / counters.SLOT) - counters.SLOTS then sum = sum + pair[2] end
  end
  return sum
end

local FIRST = 32 -- how many of a line are looked at for the longest wait
local function longest(limit)
  local most = nil
  for _, member in ipairs(call('ZRANGEBYLEX', key.waiters, first(limit), last(limit), 'LIMIT', 0, FIRST)) do
    local record = permits.load(string.match(string.sub(member, #limit + 2), members.US .. '(.*)$'))
    if record then most = math.max(most or 0, permits.waited(record)) end
  end
  return most
end

local function status_of(limit)
  local override, configured = overrides.of(limit), limits.configured(limit)
  local max = override.max or configured or -1
  local paused, settling = override.pause ~= nil, limits.is_settling(limit) or meta.closed_until ~= nil
  local held = permits.held(limit)
  local is_closed = paused or settling or (max >= 0 and held - (idle[limit] or 0) >= max)
  return {
    limit = limit, max = max, paused = paused, configured = configured or cjson.null,
    override = next(override) and override or cjson.null, held = held, idle = idle[limit] or 0, settling = settling,
    waiting = call('ZLEXCOUNT', key.waiters, first(limit), last(limit)), parked = is_closed and parked[limit] or 0,
    longest = longest(limit), ended = ended(limit),
  }
end
local found = {}
for _, limit in ipairs(names) do table.insert(found, status_of(limit)) end
return cjson.encode({
  status = 'ok', now = time.now, version = meta.version, live = #live, limits = found, sessions = live,
})
