-- uses: input meta time clock members limits overrides configs units wants running rooms lines counters epochs reply
-- What holds now: limits with their values and counts, sessions with their leases.
--
-- Guarantee: one instant. Dead sessions are reclaimed first, so what they held isn't shown.
-- ARGV[2] limit (or null: all that are set at run time, configured by a live session, or limited)
-- Reply   {status: "ok", now (wall time, ms), version, live, limits: [{limit, max (-1 unlimited), paused,
--          configured (null), override (null), held (units), idle (of these), waiting (requests), parked (where it has
--          no room), longest (ms that any of the first in line has waited; absent where nobody waits), ended (tasks in
--          the last minute), settling}...],
--          sessions: [{session, lease (ms left), interval and timeout (ms), queues, info, config (a digest), permits, waiting, room,
--          stall: {why, slots, since (ms)} where it starts nothing though slots are free}...],
--          configs: digest -> {limit -> max}}
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

local idle, parked, live, values = {}, {}, {}, {}
for _, sid in ipairs(call('ZRANGEBYSCORE', key.sessions, '(' .. members.int(clock.at), '+inf')) do
  local in_line = 0
  for limit, more in pairs(cjson.decode(call('HGET', SESSION, sid .. ':parked') or '{}')) do
    parked[limit] = (parked[limit] or 0) + more
  end
  for limit, stated in pairs(cjson.decode(call('HGET', SESSION, sid .. ':idle') or '{}')) do
    local gone = math.max(stated[2] - units.of(sid, limit), 0) -- since then: idle ones go first
    idle[limit] = (idle[limit] or 0) + math.max(stated[1] - gone, 0)
  end
  for _, id in ipairs(wants.ids_of(sid)) do in_line = in_line + #wants.load(id).r end
  local config = call('HGET', SESSION, sid .. ':config') or ''
  values[config] = values[config] or configs.values_of(config)
  table.insert(live, {
    session = sid, lease = tonumber(call('ZSCORE', key.sessions, sid)) - clock.at, permits = #running.of(sid),
    waiting = in_line,
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

local function waiting(limit)
  local count = 0
  for _, member in ipairs(call('ZRANGEBYLEX', key.waiters, first(limit), last(limit))) do
    count = count + #wants.load(lines.id_at(string.sub(member, #limit + 2))).r
  end
  return count
end

local FIRST = 32 -- how many of a line are looked at for the longest wait
local function longest(limit)
  local most = nil
  for _, member in ipairs(call('ZRANGEBYLEX', key.waiters, first(limit), last(limit), 'LIMIT', 0, FIRST)) do
    local record = wants.load(lines.id_at(string.sub(member, #limit + 2)))
    most = math.max(most or 0, wants.waited(record.r[1]))
  end
  return most
end

local function status_of(limit)
  local override, configured = overrides.of(limit), limits.configured(limit)
  local max = override.max or configured or -1
  local paused, settling = override.pause ~= nil, limits.is_settling(limit) or meta.closed_until ~= nil
  local held, unused = units.held(limit), idle[limit] or 0
  local is_closed = paused or settling or (max >= 0 and held - unused >= max)
  return {
    limit = limit, max = max, paused = paused, configured = configured or cjson.null,
    override = next(override) and override or cjson.null, held = held, idle = unused, settling = settling,
    waiting = waiting(limit), parked = is_closed and parked[limit] or 0,
    longest = longest(limit), ended = ended(limit),
  }
end
local found = {}
for _, limit in ipairs(names) do table.insert(found, status_of(limit)) end
return cjson.encode({
  status = 'ok', now = time.now, version = meta.version, live = #live, limits = found, sessions = live, configs = values,
})
