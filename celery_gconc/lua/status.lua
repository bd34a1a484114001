-- What holds now: limits with their values and counts, sessions with their leases.
--
-- Guarantee: one instant. Dead sessions are reclaimed first, so what they held isn't shown.
-- ARGV[2] limit (or null: all that are set at run time, configured by a live session, or limited)
-- Reply   {status: "ok", version, live, limits: [{limit, max (-1 unlimited), paused, configured (null), override (null),
--          held, idle, waiting, settling}...], sessions: [{session, lease (ms left), info, permits, waiting, room}...]}
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

local idle, sessions = {}, {}
for _, sid in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
  local permits, waiting = 0, 0
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
  })
end

local limits = {}
for _, limit in ipairs(names) do
  local override = call('HGET', OVERRIDES, limit)
  override = override and cjson.decode(override) or {}
  local configured = tonumber(call('HGET', CONFIGURED, limit))
  local set = override.max ~= nil
  table.insert(limits, {
    limit = limit, max = set and override.max or configured or -1, paused = override.paused or false,
    configured = configured or cjson.null, override = next(override) and override or cjson.null,
    held = held(limit), idle = idle[limit] or 0, settling = fresh[limit] ~= nil or shut ~= nil,
    waiting = call('ZLEXCOUNT', WAITERS, first(limit), last(limit)),
  })
end
return cjson.encode({ status = 'ok', version = version, live = #sessions, limits = limits, sessions = sessions })
