-- uses: meta clock members
-- The heartbeat settings of live sessions: all intervals in order, then all timeouts.
local heartbeats
do
  local INTERVAL, TIMEOUT = 'interval\31', 'timeout\31'

  local function beat_of(kind, ms, sid) return string.format('%s%010.0f%s%s', kind, ms, members.US, sid) end
  local function ms_at(index)
    local found = call('ZRANGE', key.heartbeats, index, index)
    return found[1] and tonumber(string.match(found[1], members.US .. '(%d+)' .. members.US))
  end

  local function add(sid, interval, timeout)
    call('ZADD', key.heartbeats, 0, beat_of(INTERVAL, interval, sid), 0, beat_of(TIMEOUT, timeout, sid))
  end
  local function remove(sid, interval, timeout)
    call('ZREM', key.heartbeats, beat_of(INTERVAL, interval, sid), beat_of(TIMEOUT, timeout, sid))
  end

  -- The longest interval of a live session (ms).
  local function slowest() return ms_at(call('ZCARD', key.heartbeats) / 2 - 1) or meta.interval end

  -- The longest lease (ms) that a session may have: one that lives, or one that has lived before the epoch began and
  -- may not be known here; heard is of those. Sessions are told, and tell it where this is lost.
  local function longest_lease()
    if meta.epoch_began and clock.at < meta.epoch_began + meta.heard then return math.max(meta.longest, meta.heard) end
    return meta.longest
  end

  -- Sessions have begun or ended: the least interval holds back the lease clock. While none lives, the last one's does.
  local function changed()
    meta.interval, meta.longest = ms_at(0) or meta.interval, ms_at(-1) or meta.longest
    call('HSET', key.meta, 'interval', members.int(meta.interval), 'longest', members.int(meta.longest))
  end

  heartbeats = {
    INTERVAL = INTERVAL, TIMEOUT = TIMEOUT, add = add, remove = remove, slowest = slowest,
    longest_lease = longest_lease, changed = changed,
  }
end
