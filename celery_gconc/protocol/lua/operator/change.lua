-- Change a limit at run time: set, reset, pause or resume.
--
-- Guarantee: a ticket is applied at most once, and never after a later one for the same limit and kind: so ten
-- workers may handle one broadcast, and a late one undoes nothing. Waiters with a place are granted before the
-- reply. set and reset leave a pause, pause and resume leave the value.
-- ARGV[2] kind ("value" or "pause"), limit, max (set: a number, -1 unlimited; reset: null), paused (boolean),
--         ticket (0: take the next one), by, reason, duration (ms after which it ends by itself, or null),
--         config (limit -> max of the caller, counts with no session)
-- Reply   {status: "ok", applied, was: {max, paused, from}, now: {the same}}; max -1 = unlimited
-- Cost    O(sessions) where the table changes, and what can be granted
local function kind(it) return it == 'value' or it == 'pause' end
local function max(it) return it == cjson.null or whole(it, -1, 2 ^ 31) end
local function reason(it) return it == cjson.null or short(it) end
local function duration(it) return it == cjson.null or whole(it, 1, 1e12) end
expect({
  limit = limit_name, kind = kind, max = max, paused = flag, ticket = count, by = short, reason = reason,
  duration = duration, config = configuration,
})
if call('HEXISTS', OVERRIDES, asked.limit) == 0 and call('HLEN', OVERRIDES) >= 10000 then
  error('celery-gconc: 10000 limits are set at run time already; reset some')
end
begin()
local HOUR = 3600 * 1000
local AHEAD = 1000000 -- a ticket so far above the last one was never given: it would use the numbers up
local limit, field = asked.limit, asked.limit .. US .. asked.kind

local function value_of(override)
  local configured = tonumber(call('HGET', CONFIGURED, limit))
  if not configured and call('ZCARD', SESSIONS) == 0 then configured = asked.config[limit] end
  local set = override.max ~= nil and override.max ~= cjson.null
  return {
    max = set and override.max or configured or -1,
    paused = override.paused or false,
    from = set and 'override' or (configured and 'configured' or 'none'),
  }
end

local ticket, taken = asked.ticket, tonumber(call('HGET', META, 'ticket')) or 0
if ticket == 0 or ticket > taken + AHEAD then
  ticket = call('HINCRBY', META, 'ticket', 1)
elseif ticket > taken then -- taken before data was lost
  call('HSET', META, 'ticket', ticket)
end
local last_change = call('HGET', CHANGES, field)
last_change = last_change and cjson.decode(last_change) or { ticket = 0 }
local override = call('HGET', OVERRIDES, limit)
override = override and cjson.decode(override) or {}
if ticket <= last_change.ticket then
  finish()
  local same = ticket == last_change.ticket
  return cjson.encode({
    status = 'ok', applied = same, was = same and last_change.was or value_of(override),
    now = same and last_change.now or value_of(override),
  })
end

local was = value_of(override)
local reason_ = asked.reason ~= cjson.null and asked.reason or nil
local ends_ = asked.duration ~= cjson.null and now + asked.duration or nil
local fields, values = VALUE_FIELDS, {}
if asked.kind == 'pause' then
  fields = PAUSE_FIELDS
  if asked.paused then values = { true, asked.by, now, reason_, ends_ } end
elseif asked.max ~= cjson.null then
  values = { asked.max, asked.by, now, reason_, ends_ }
end
for i, field_ in ipairs(fields) do override[field_] = values[i] end
override_with(limit, override)
if not table_changed then new_version() end
finish()
local change = { ticket = ticket, was = was, now = value_of(override), epoch = epoch }
call('HSET', CHANGES, field, cjson.encode(change))
call('ZADD', CHANGED, int(now), field)
for _, old in ipairs(call('ZRANGEBYSCORE', CHANGED, '-inf', int(now - HOUR), 'LIMIT', 0, 64)) do
  call('ZREM', CHANGED, old)
  call('HDEL', CHANGES, old)
end
return cjson.encode({ status = 'ok', applied = true, was = was, now = change.now })
