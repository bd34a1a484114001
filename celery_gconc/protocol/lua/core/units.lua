-- uses: meta clock members limits sums hungry
-- Units: how many of each limit's max a session has, whether its tasks use them or not.
--
-- UNITS has how many of a limit a session has, HELD how many all of them have. HOLDERS has each session that has any
-- twice: under the limit, and the limit under the session. IDLE has, as UNITS, how many of them no task used when the
-- session last stated that, less those that it gave back since: idle ones go first.
local units
do
  local US = members.US

  local function of_limit(limit, sid) return limit .. US .. sid end
  local function of_session(limit, sid) return US .. sid .. US .. limit end

  local totals = {} -- as far as they were looked at
  local function held(limit)
    local total = totals[limit]
    if not total then
      total = tonumber(call('HGET', key.held, limit)) or 0
      totals[limit] = total
    end
    return total
  end

  -- Many at once, to be asked for later.
  local function look_at(names)
    local found = members.fields(key.held, names)
    for i, limit in ipairs(names) do totals[limit] = totals[limit] or tonumber(found[i]) or 0 end
  end

  -- All sessions have so many of a limit.
  local function set_held(limit, total)
    totals[limit] = total
    if total > 0 then call('HSET', key.held, limit, members.int(total)) else call('HDEL', key.held, limit) end
  end

  local function of(sid, limit) return tonumber(call('HGET', key.units, of_limit(limit, sid))) or 0 end

  local function set_idle(member, limit, count, before)
    if count == before then return end
    if count > 0 then call('HSET', key.idle, member, members.int(count)) else call('HDEL', key.idle, member) end
    sums.add(limit .. sums.IDLE, count - before)
    sums.note(sums.IDLE, limit, member, count - before)
  end
  local function lessen_idle(member, limit, less)
    local idle = tonumber(call('HGET', key.idle, member)) or 0
    if idle > 0 then set_idle(member, limit, math.max(idle - less, 0), idle) end
  end

  -- More are held than the max: by what sessions have stated, for nothing is granted above it. All who have some are told
  -- so within a heartbeat, which is a statement until then.
  local function is_over(limit)
    local max = limits.max_of(limit)
    if not max or held(limit) <= max then return end
    meta.over_until = clock.at + meta.longest
    call('HSET', key.meta, 'over_until', members.int(meta.over_until))
  end

  -- A session has so many of a limit from now on. before: how many it had, where that is known.
  local function set(sid, limit, count, before)
    before = before or of(sid, limit)
    if count == before then return end
    local member = of_limit(limit, sid)
    if count > 0 then
      call('HSET', key.units, member, members.int(count))
      if before == 0 then call('ZADD', key.holders, 0, member, 0, of_session(limit, sid)) end
    else
      call('HDEL', key.units, member)
      call('ZREM', key.holders, member, of_session(limit, sid))
    end
    set_held(limit, held(limit) + count - before)
    if meta.audit then sums.note('held', limit, member, count - before) end -- (no call makes sums for nothing)
    hungry.moved(sid, limit, count)
    if count > before then is_over(limit) end
    if count < before then
      limits.touch(limit)
      lessen_idle(member, limit, before - count)
    end
  end

  local function add(sid, limit, more) set(sid, limit, of(sid, limit) + more) end

  -- A session has so many of each of these limits from now on.
  local function set_all(sid, counts)
    local names, fields = {}, {}
    for limit in pairs(counts) do
      names[#names + 1] = limit
      fields[#names] = of_limit(limit, sid)
    end
    local before = members.fields(key.units, fields)
    for i, limit in ipairs(names) do set(sid, limit, counts[limit], tonumber(before[i]) or 0) end
  end

  -- The limits that a session has units of, some of them where at_most is given.
  local function limits_of(sid, at_most)
    local from, to = '[' .. US .. sid .. US, '(' .. US .. sid .. members.AFTER
    local found = call('ZRANGEBYLEX', key.holders, from, to, 'LIMIT', 0, at_most or -1)
    for i, member in ipairs(found) do found[i] = string.sub(member, #sid + 3) end
    return found
  end

  -- So many units of each limit are idle at a session; of those that it doesn't name none.
  local function state_idle(sid, counts)
    local names, fields = limits_of(sid), {}
    for i, limit in ipairs(names) do fields[i] = of_limit(limit, sid) end
    local before = members.fields(key.idle, fields)
    for i, limit in ipairs(names) do
      local count = counts[limit] and math.min(counts[limit], of(sid, limit)) or 0
      set_idle(fields[i], limit, count, tonumber(before[i]) or 0)
    end
  end

  -- The sessions that have units of a limit, in order of name; where at_most is given, so many of those after one.
  local function sessions_of(limit, at_most, after)
    local from = after and '(' .. of_limit(limit, after) or members.first(limit)
    local found = call('ZRANGEBYLEX', key.holders, from, members.last(limit), 'LIMIT', 0, at_most or -1)
    for i, member in ipairs(found) do found[i] = string.sub(member, #limit + 2) end
    return found
  end

  -- How many sessions have some of it.
  local function count_sessions(limit) return call('ZLEXCOUNT', key.holders, members.first(limit), members.last(limit)) end

  units = {
    held = held, set_held = set_held, look_at = look_at, of = of, set = set, set_all = set_all, add = add, limits_of = limits_of,
    sessions_of = sessions_of, count_sessions = count_sessions, state_idle = state_idle,
  }
end
