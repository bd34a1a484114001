-- uses: meta clock members sums
-- Parked: requests that a session holds behind those in line, as it told with its last heartbeat, by limit.
local parked
do
  local function read(sid) return cjson.decode(call('HGET', key.session, sid .. ':parked') or '{}') end
  local function save(sid, counts)
    if next(counts) then
      call('HSET', key.session, sid .. ':parked', cjson.encode(counts))
    else
      call('HDEL', key.session, sid .. ':parked')
    end
  end

  local function state(sid, counts)
    local before = read(sid)
    for limit, count in pairs(counts) do sums.add(limit .. sums.PARKED, count - (before[limit] or 0)) end
    for limit, count in pairs(before) do
      if not counts[limit] then sums.add(limit .. sums.PARKED, -count) end
    end
    save(sid, counts)
  end

  -- Those of some limits no longer count. Return of how many.
  local function end_some(sid, at_most)
    local left, done = read(sid), 0
    for limit, count in pairs(left) do
      if done >= at_most then break end
      sums.add(limit .. sums.PARKED, -count)
      left[limit] = nil
      done = done + 1
    end
    if done > 0 then save(sid, left) end
    return done
  end

  -- So many messages of a queue wait at the broker, as a session that reads it message by message has just counted them.
  -- Several may say so of one queue: the last is right.
  local function state_at_broker(counts)
    for limit, count in pairs(counts) do
      if count > 0 then
        call('HSET', key.sums, limit .. sums.BROKER, members.int(count) .. ' ' .. members.int(clock.at))
      else
        call('HDEL', key.sums, limit .. sums.BROKER)
      end
    end
  end

  -- How many, by what SUMS has: nobody counts them any more where that is older than a lease.
  local function at_broker(text)
    local count, at = string.match(text or '', '^(%d+) (%d+)$')
    return count and clock.at - tonumber(at) <= meta.longest and tonumber(count) or 0
  end

  parked = { state = state, end_some = end_some, state_at_broker = state_at_broker, at_broker = at_broker }
end
