-- uses: sums
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

  parked = { state = state, end_some = end_some }
end
