-- uses: input meta time members limits limit_table overrides news epochs reply
-- Change a limit at run time: set, reset, pause or resume.
--
-- Guarantee: a ticket is applied at most once, and never after a later one for the same limit and kind: so ten
-- workers may handle one broadcast, and a late one undoes nothing. Waiters with a permit free are granted before the
-- reply. set and reset leave a pause, pause and resume leave the value.
-- ARGV[2] kind ("value" or "pause"), limit, max (set: a number, -1 unlimited; reset: null), paused (boolean),
--         ticket (0: take the next one), by, reason, duration (ms after which it ends, or null),
--         config (limit -> max of the caller, counts with no session)
-- Reply   {status: "ok", applied, was: {max, paused, from}, now: {the same}, ticket (that it had), more}; max -1 = unlimited;
--         more: not all sessions were told of it yet, or not all granted that can be; the next scripts go on with both,
--         so does the same with its ticket again, which changes nothing
-- Cost    O(log(limits)), and a bounded part of those who are told, and of what can be granted
local int, asked = members.int, input.asked
local CHANGES, CHANGED = key.changes, key.changed
local HOUR = 3600 * 1000
local AHEAD = 1000000 -- a ticket so far above the last one was never given: it would use the numbers up

local function kind(it) return it == 'value' or it == 'pause' end
local function max(it) return it == cjson.null or input.whole(it, -1, constant.MAX) end
local function reason(it) return it == cjson.null or input.short(it) end
local function duration(it) return it == cjson.null or input.whole(it, 1, 1e12) end
input.expect({
  limit = input.limit_name, kind = kind, max = max, paused = input.flag, ticket = input.count, by = input.short,
  reason = reason, duration = duration, config = input.configuration,
})
if call('HEXISTS', key.overrides, asked.limit) == 0 and call('HLEN', key.overrides) >= 10000 then
  error('celery-gconc: 10000 limits are set at run time already; reset some')
end
epochs.begin()

local limit, field = asked.limit, asked.limit .. members.US .. asked.kind

local function value_of(override)
  local configured = limit_table.configured(limit)
  if not configured and call('ZCARD', key.sessions) == 0 then configured = asked.config[limit] end
  local is_set = override.max ~= nil
  return {
    max = is_set and override.max or configured or -1,
    paused = override.pause ~= nil,
    from = is_set and 'override' or (configured and 'configured' or 'none'),
  }
end

-- The number that is asked for, or the next one.
local function take_ticket()
  local ticket, taken = asked.ticket, tonumber(call('HGET', key.meta, 'ticket')) or 0
  if ticket == 0 or ticket > taken + AHEAD then return call('HINCRBY', key.meta, 'ticket', 1) end
  if ticket > taken then call('HSET', key.meta, 'ticket', ticket) end -- taken before data was lost
  return ticket
end

local function given(value)
  if value == cjson.null then return nil end
  return value
end

local function change(override)
  local mark = { by = asked.by, at = time.now, reason = given(asked.reason) }
  mark.ends = given(asked.duration) and time.now + asked.duration
  if asked.kind == 'pause' then
    override.pause = asked.paused and mark or nil
  else
    override.max = given(asked.max)
    override.set = override.max and mark
  end
  overrides.set(limit, override)
end

-- Changes are remembered for an hour.
local function remember(made)
  call('HSET', CHANGES, field, cjson.encode(made))
  call('ZADD', CHANGED, int(time.now), field)
  for _, old in ipairs(call('ZRANGEBYSCORE', CHANGED, '-inf', int(time.now - HOUR), 'LIMIT', 0, 64)) do
    call('ZREM', CHANGED, old)
    call('HDEL', CHANGES, old)
  end
end

local ticket = take_ticket()
local function answer(applied, was, now)
  local more = news.are_some_untold() or limits.are_some_put_off()
  return cjson.encode({ status = 'ok', applied = applied, was = was, now = now, ticket = ticket, more = more })
end
local last_change = call('HGET', CHANGES, field)
last_change = last_change and cjson.decode(last_change) or { ticket = 0 }
local override = overrides.of(limit)
if ticket <= last_change.ticket then
  reply.finish()
  local same = ticket == last_change.ticket
  return answer(same, same and last_change.was or value_of(override), same and last_change.now or value_of(override))
end

local was = value_of(override)
change(override)
reply.finish()
local made = { ticket = ticket, was = was, now = value_of(override), at = time.now, epoch = meta.epoch }
remember(made)
return answer(true, was, made.now)
