-- uses: meta members limits permits rooms contention
-- Lines: where requests wait, and for whom permits are held back.
--
-- TURNS has the waiters of each line whose turn may come, ASIDE the others, by session: they were offered a permit, had
-- no room for it, and have not been heard of since. So nobody walks past them at each permit that becomes free.
-- A waiter stands in the line of one full limit at a time. After TURNS missed turns a permit is held back for it in each
-- of its limits: RESERVED has it then, ordered as WAITERS. Of each limit one is held back at a time, for the first whose
-- session has room: were it one for each of them, those that wait for a full limit would empty the others, too. The
-- first of all is the first in each of its limits, so its turn comes, and then that of the next.
local lines
do
  -- Has the limit a permit for a request that stands at this order key (arrival members.US id)?
  local function has_free(limit, order)
    local max = limits.max_of(limit)
    if not max then return true end
    if meta.closed_until or limits.is_settling(limit) then return false end
    local taken = permits.held(limit)
    if taken >= max then return false end
    if taken < max - 1 then return true end
    local before = '(' .. limit .. members.US .. order
    for _, member in ipairs(call('ZRANGEBYLEX', key.reserved, members.first(limit), before)) do
      if rooms.of(members.owner_of_waiter(member)) > 0 then return false end
    end
    return true
  end

  -- The first of its other limits that has no permit for the request.
  local function blocking(record, order, but)
    for _, claim in ipairs(record.c) do
      local limit = claim[1]
      if limit ~= but and not has_free(limit, order) then return limit end
    end
  end

  local function stand(id, record, limit)
    record.at = limit
    permits.save(id, record)
    local member = limit .. members.US .. members.order_key(id, record)
    call('ZADD', key.waiters, 0, member)
    call('ZADD', key.turns, 0, member)
    contention.begin(limit, members.owner(id))
  end

  -- It was offered a permit, and its session has no room: its turn doesn't come again until that says something.
  local function set_aside(sid, member)
    call('ZREM', key.turns, member)
    call('ZADD', key.aside, 0, sid .. members.US .. member)
  end

  -- What was set aside of a session gets its turns again.
  local function bring_back(sid)
    local found = call('ZRANGEBYLEX', key.aside, members.first(sid), members.last(sid))
    for _, member in ipairs(found) do
      call('ZADD', key.turns, 0, string.sub(member, #sid + 2))
      call('ZREM', key.aside, member)
    end
  end

  local function leave(id, record)
    local limit = record.at
    local member = limit .. members.US .. members.order_key(id, record)
    call('ZREM', key.waiters, member)
    if call('ZREM', key.turns, member) == 0 then call('ZREM', key.aside, members.owner(id) .. members.US .. member) end
    record.at = nil
    contention.finish_if_empty(limit)
  end

  local function reserve(id, record)
    for _, claim in ipairs(record.c) do
      local limit = claim[1]
      call('ZADD', key.reserved, 0, limit .. members.US .. members.order_key(id, record))
      contention.begin(limit, members.owner(id))
    end
  end

  local function unreserve(id, record)
    if record.k < constant.TURNS then return end
    for _, claim in ipairs(record.c) do
      local limit = claim[1]
      call('ZREM', key.reserved, limit .. members.US .. members.order_key(id, record))
      contention.finish_if_empty(limit)
      limits.touch(limit)
    end
  end

  lines = {
    has_free = has_free, blocking = blocking, stand = stand, leave = leave, set_aside = set_aside,
    bring_back = bring_back, reserve = reserve, unreserve = unreserve,
  }
end
