-- uses: input pages meta time members limits limit_table overrides units sums parked wants counters epochs reply
-- What holds now for some limits: values and counts.
--
-- Guarantee: one instant for those of one reply. Dead sessions are reclaimed first, so what they held isn't shown, but
--         what the next scripts are to take away.
-- ARGV[2] limits [limit...]
-- Reply   {status: "ok", now (wall time, ms), version, live (how many sessions), limits: of the first some of those asked
--          for [{limit, max (-1 unlimited), paused, configured (null), override (null), held (units), idle (of these),
--          waiting (requests), parked (in workers where it has no room, and at the broker), at_broker (of these), longest (ms that the first in line has waited; absent where
--          nobody waits), ended (tasks in the last minute), settling}...]}
-- Cost    O(limits x log N), N = what Redis has
local asked = input.asked
input.expect({ limits = function(it) return input.every(it, input.limit_name) and #it <= 1000 end })
epochs.begin()
reply.finish()

local function ended(limit)
  local total, sum = call('HGET', key.totals, limit), 0
  local lately = total and string.match(total, '"lately": ?(%[[%d%[%], ]*%])') -- without the rest, which is long
  for _, pair in ipairs(lately and cjson.decode(lately) or {}) do
    if pair[1] > math.floor(time.now / counters.SLOT) - counters.SLOTS then sum = sum + pair[2] end
  end
  return sum
end

-- It stands by its arrival.
local function longest(limit)
  local first = call('ZRANGEBYLEX', key.waiters, members.first(limit), members.last(limit), 'LIMIT', 0, 1)[1]
  return first and wants.waited({ string.sub(first, #limit + 2, #limit + 17) })
end

local function status_of(limit)
  local override, configured = overrides.of(limit), limit_table.configured(limit)
  local max = override.max or configured or -1
  local paused, settling = override.pause ~= nil, limits.is_settling(limit) or meta.closed_until ~= nil
  local counts = call('HMGET', key.sums, limit .. sums.WAITING, limit .. sums.IDLE, limit .. sums.PARKED,
    limit .. sums.BROKER)
  local held, idle = units.held(limit), tonumber(counts[2]) or 0
  local at_broker = parked.at_broker(counts[4])
  local is_closed = paused or settling or (max >= 0 and held - idle >= max)
  return {
    limit = limit, max = max, paused = paused, configured = configured or cjson.null,
    override = next(override) and override or cjson.null, held = held, idle = idle, settling = settling,
    waiting = tonumber(counts[1]) or 0,
    parked = (is_closed and tonumber(counts[3]) or 0) + at_broker, at_broker = at_broker,
    longest = longest(limit), ended = ended(limit),
  }
end
local found = {}
for i = 1, math.min(#asked.limits, pages.SIZE) do found[i] = status_of(asked.limits[i]) end
return cjson.encode({
  status = 'ok', now = time.now, version = meta.version, live = call('ZCARD', key.heartbeats) / 2, limits = found,
})
