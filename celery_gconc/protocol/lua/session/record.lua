-- uses: input time limit_table counters parked epochs reply
-- What a session has counted since it last told: with a heartbeat, where there was anything.
--
-- Guarantee: none is lost while Redis serves; what was told in a call whose reply was lost is told again.
--         (At most PIECE limits in each of these: whoever has more to tell calls again.)
-- ARGV[2] session,
--         limits: limit -> {grants, wait [count in each range of seconds...], waited (ms, in all), hold [...], held (ms)},
--         counts: {lease_losses, redis_errors, without_redis},
--         parked: limit -> how many requests the worker holds behind those in line, where that has changed,
--         at_broker: limit -> how many messages wait at the broker (of queues that it reads message by message),
--         stall: {why (text), slots, span (ms)}: it starts nothing though so many slots are free, for so long; or null,
--         recent: limit -> {ended (how many tasks), samples [[ms since its end, ms waited, ms held]...]}
-- Reply   {status: "ok"}
-- Cost    O(limits x ranges)
local MAX_LIMITS = 10000 -- for which totals are kept; above, those of limits that are no more make room
local KEEP = 15 * 60      -- seconds for which recent is kept
local MAX_ENTRIES = 5000 -- in recent, about
local KEEP_TOTALS = 30 * 86400 -- seconds after the last change
local asked, count = input.asked, input.count
local me = input.me
local SESSION, TOTALS, RECENT = key.session, key.totals, key.recent
local function counts(it) return input.every(it, count) and #it <= 64 end
local function of_limit(it)
  return type(it) == 'table' and count(it.grants) and counts(it.wait) and count(it.waited) and counts(it.hold)
    and count(it.held)
end
local function sample(it) return counts(it) and #it == 3 end
local function lately(it)
  return type(it) == 'table' and count(it.ended) and input.every(it.samples, sample) and #it.samples <= 1000
end
local function of_namespace(it)
  return type(it) == 'table' and count(it.lease_losses) and count(it.redis_errors) and count(it.without_redis)
end
local function stall(it)
  return it == cjson.null or (type(it) == 'table' and input.short(it.why) and count(it.slots) and count(it.span))
end
local function each(kind)
  return function(it) return input.by_limit(it, kind) and input.is_piece(it) end
end
input.expect({
  session = input.session_id, limits = each(of_limit), counts = of_namespace, parked = each(count),
  at_broker = each(count), stall = stall,
  recent = each(lately),
})
epochs.begin()
local function add(to, more)
  for i = 1, #more do to[i] = (to[i] or 0) + more[i] end
  return to
end
-- How many have ended in each SLOT of the last minute: pairs of its number and a count, the newest first.
local function lately_of(before, ended)
  local slot = math.floor(time.now / counters.SLOT)
  local parts = { { slot, ended } }
  for _, pair in ipairs(before or {}) do
    if pair[1] == slot then
      parts[1][2] = parts[1][2] + pair[2]
    elseif pair[1] > slot - counters.SLOTS then
      table.insert(parts, pair)
    end
  end
  return parts
end
-- Some of all limits are looked at, the next ones each time.
local function make_room()
  local from = call('HGET', key.meta, 'totals_at') or '0'
  local at, totals = unpack(call('HSCAN', TOTALS, from, 'COUNT', math.ceil(constant.WORK / 8)))
  call('HSET', key.meta, 'totals_at', at)
  for i = 1, #totals, 2 do
    local limit = totals[i]
    local lives = limit == '' or asked.limits[limit] or call('HEXISTS', key.max, limit) == 1
      or limit_table.configured(limit) or call('HEXISTS', key.overrides, limit) == 1
    if not lives then call('HDEL', TOTALS, limit) end
  end
  return MAX_LIMITS - call('HLEN', TOTALS)
end
local free, has_made_room = MAX_LIMITS - call('HLEN', TOTALS), false
for limit, more in pairs(asked.limits) do
  local known = call('HGET', TOTALS, limit)
  if not known and free <= 0 and not has_made_room then free, has_made_room = make_room(), true end
  if known or free > 0 then
    if not known then free = free - 1 end
    local total = known and cjson.decode(known) or { grants = 0, wait = {}, waited = 0, hold = {}, held = 0 }
    local ended = asked.recent[limit] and asked.recent[limit].ended or 0
    call('HSET', TOTALS, limit, cjson.encode({
      grants = total.grants + more.grants, wait = add(total.wait, more.wait), waited = total.waited + more.waited,
      hold = add(total.hold, more.hold), held = total.held + more.held, lately = lately_of(total.lately, ended),
    }))
  end
end
counters.add(asked.counts)
call('EXPIRE', TOTALS, KEEP_TOTALS)
if next(asked.recent) then
  call('XADD', RECENT, 'MAXLEN', '~', MAX_ENTRIES, '*', 'limits', cjson.encode(asked.recent))
  call('EXPIRE', RECENT, KEEP)
end
if call('ZSCORE', key.sessions, me) then
  parked.state(me, asked.parked)
  parked.state_at_broker(asked.at_broker)
  if asked.stall ~= cjson.null then
    local since = time.now - asked.stall.span
    local stalled = { why = asked.stall.why, slots = asked.stall.slots, since = since }
    call('HSET', SESSION, me .. ':stall', cjson.encode(stalled))
  else
    call('HDEL', SESSION, me .. ':stall')
  end
end
reply.finish()
return cjson.encode({ status = 'ok' })
