-- uses: meta members limits units wants rooms contention sums
-- Lines: where wants stand, and for which of them units are held back.
--
-- TURNS has the wants of each line whose turn may come, ASIDE the others, by session: their turn came, they had no room for
-- a task, and have not been heard of since. So nobody walks past them each time that units become free.
-- A want stands in the line of one full limit at a time, where the first of its requests belongs. After TURNS missed
-- turns its units are held back for it in each of its limits: RESERVED has it then, ordered as WAITERS. In each limit
-- that is done for one at a time, the first whose session has room: were it done for each of them, those that wait for a
-- full limit would empty the others, too. The first of all is the first in each of its limits, so its turn comes, and
-- then that of the next.
local lines
do
  local some_are_reserved = call('EXISTS', key.reserved) == 1

  local function id_at(order) return string.match(order, members.US .. '(.*)$') end

  -- How many units are held back for a want that came before this order key.
  local function reserved_before(limit, order)
    if not some_are_reserved then return 0 end
    local before = '(' .. limit .. members.US .. order
    for _, member in ipairs(call('ZRANGEBYLEX', key.reserved, members.first(limit), before)) do
      local id = id_at(string.sub(member, #limit + 2))
      if rooms.of(members.owner(id)) > 0 then return wants.weight_on(wants.load(id), limit) end
    end
    return 0
  end

  -- Is what is free for a want that stands in line before this order key, and needs more? (Else smaller ones would pass
  -- it for ever.) If its session has no room the line is served, and then it is for others.
  local function is_for_a_heavier(limit, free, order)
    if not meta.heavy then return false end
    local from, before = members.first(limit), '(' .. limit .. members.US .. order
    local first = call('ZRANGEBYLEX', key.turns, from, before, 'LIMIT', 0, 1)[1]
    if not first then return false end
    local id = id_at(string.sub(first, #limit + 2))
    if wants.weight_on(wants.load(id), limit) <= free then return false end
    if rooms.of(members.owner(id)) <= 0 then limits.touch(limit) end
    return true
  end

  -- Has the limit so many units for a want that stands at this order key (arrival members.US id)?
  local function has_free(limit, weight, order)
    local max = limits.max_of(limit)
    if not max then return true end
    if meta.closed_until or limits.is_settling(limit) then return false end
    local free = max - units.held(limit)
    if free < weight then return false end
    free = free - reserved_before(limit, order)
    return free >= weight and not is_for_a_heavier(limit, free, order)
  end

  -- The first of its other limits that has not enough for the want.
  local function blocking(record, order, but)
    for _, claim in ipairs(record.c) do
      if claim[1] ~= but and not has_free(claim[1], claim[2], order) then return claim[1] end
    end
  end

  -- So many more of its requests wait in the line of a limit.
  local function count(id, limit, member, more)
    local sid = members.owner(id)
    sums.add(limit .. sums.WAITING, more)
    sums.note(sums.WAITING, limit, member, more)
    sums.add(members.US .. sid, more)
    sums.note('session', sid, id, more)
  end

  local function stand(id, record, limit)
    record.at = limit
    wants.save(id, record)
    local member = limit .. members.US .. members.order_key(id, record)
    call('ZADD', key.waiters, 0, member)
    call('ZADD', key.turns, 0, member)
    count(id, limit, member, #record.r)
    contention.begin(limit, members.owner(id))
  end

  -- Its session has no room: its turn doesn't come again until that says something.
  local function set_aside(sid, member)
    call('ZREM', key.turns, member)
    call('ZADD', key.aside, 0, sid .. members.US .. member)
    call('HSET', key.session, sid .. ':aside', '1')
  end

  -- What was set aside of a session gets its turns again.
  local function bring_back(sid)
    local found = call('ZRANGEBYLEX', key.aside, members.first(sid), members.last(sid))
    for _, member in ipairs(found) do
      call('ZADD', key.turns, 0, string.sub(member, #sid + 2))
      call('ZREM', key.aside, member)
    end
    call('HDEL', key.session, sid .. ':aside')
  end

  local function leave(id, record)
    local limit = record.at
    if not limit then return end
    local member = limit .. members.US .. members.order_key(id, record)
    call('ZREM', key.waiters, member)
    if call('ZREM', key.turns, member) == 0 then call('ZREM', key.aside, members.owner(id) .. members.US .. member) end
    count(id, limit, member, -#record.r)
    record.at = nil
    if wants.weight_on(record, limit) > 1 then limits.touch(limit) end -- what was free was for it
    contention.finish_if_empty(limit)
  end

  -- It has these requests from now on, the first of which is the same as before.
  local function keep(id, record, requests)
    count(id, record.at, record.at .. members.US .. members.order_key(id, record), #requests - #record.r)
    record.r = requests
    wants.save(id, record)
  end

  local function reserve(id, record)
    some_are_reserved = true
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
    id_at = id_at, has_free = has_free, blocking = blocking, stand = stand, leave = leave, keep = keep, set_aside = set_aside,
    bring_back = bring_back, reserve = reserve, unreserve = unreserve,
  }
end
