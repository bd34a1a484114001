-- uses: meta clock members sums
-- Parked: requests that a session holds behind those in line, as it told with its last heartbeats.
--
-- PARKED has how many they are under each limit, by session, and SUMS how many they are under it in all.
local parked
do
  local US = members.US

  -- Of a session, some of them where at_most is given; or of one of its limits (from: both, with US between).
  local function members_of(from, at_most)
    return call('ZRANGEBYLEX', key.parked, '[' .. from .. US, '(' .. from .. members.AFTER, 'LIMIT', 0, at_most or -1)
  end
  local function remove(sid, member)
    local limit, count = string.match(member, '^(.*)' .. US .. '(%d+)$', #sid + 2)
    call('ZREM', key.parked, member)
    sums.add(limit .. sums.PARKED, -tonumber(count))
  end

  -- So many are parked for each of some limits; for others as many as before.
  local function state(sid, counts)
    for limit, count in pairs(counts) do
      local from = sid .. US .. limit
      for _, member in ipairs(members_of(from)) do remove(sid, member) end
      if count > 0 then
        call('ZADD', key.parked, 0, from .. US .. members.int(count))
        sums.add(limit .. sums.PARKED, count)
      end
    end
  end

  -- Those of some limits no longer count. Return of how many.
  local function end_some(sid, at_most)
    local found = members_of(sid, at_most)
    for _, member in ipairs(found) do remove(sid, member) end
    return #found
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
