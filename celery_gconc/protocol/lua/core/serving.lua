-- uses: input meta time clock members limits permits rooms lines notices
-- The rules by which permits are given.
--
-- Guarantee: after each script, no waiter whose session has room stands in line while all of its limits have a
-- permit for it; and no limit has more holders than its max but those that a statement of holdings added.
--
-- Cost    O(log N) for each permit given or freed, N = holders + waiters of all limits; O(1) otherwise
local serving
do
  local function grant(id, record)
    local sid = members.owner(id)
    local number = call('HINCRBY', key.session, sid .. ':granted', 1)
    rooms.set(sid, rooms.of(sid) - 1)
    if record.at then lines.leave(id, record) end
    lines.unreserve(id, record)
    call('ZREM', key.roll, members.roll_member(id, 0))
    record.o = nil
    record.f = permits.next_fence()
    permits.hold(id, record, number, time.now)
    if sid ~= input.me then
      local notice = notices.to(sid)
      table.insert(notice.grants, permits.grant_row(number, tonumber(string.match(id, ':(.*)$')), record))
      for _, claim in ipairs(record.c) do notice.limits[claim[1]] = true end
    end
  end

  -- End a request, waiting or granted, and free what it took.
  local function remove(id)
    local record = permits.load(id)
    if not record then return end
    if record.g == 0 then
      lines.leave(id, record)
      lines.unreserve(id, record)
    else
      for _, claim in ipairs(record.c) do
        local limit = claim[1]
        call('ZREM', key.holders, limit .. members.US .. id)
        limits.touch(limit)
      end
    end
    call('ZREM', key.roll, members.roll_member(id, record.g))
    call('HDEL', key.requests, id)
  end

  -- Its turn came, but another of its limits is full: it stands in that one's line, with its old arrival.
  -- After TURNS such misses a permit is held back for it in each of its limits. Only those that arrived later
  -- are held up by that, so two such waiters can't wait for each other.
  local function miss_turn(id, record, full)
    lines.leave(id, record)
    record.k = record.k + 1
    if record.k == constant.TURNS then lines.reserve(id, record) end
    lines.stand(id, record, full)
  end

  local function serve_one(id, order, limit)
    local record = permits.load(id)
    local full = lines.blocking(record, order, limit)
    if rooms.of(members.owner(id)) <= 0 then
      if full then
        lines.leave(id, record)
        lines.stand(id, record, full)
      else
        rooms.offer(id, record)
        lines.set_aside(members.owner(id), limit .. members.US .. order)
      end
    elseif full then
      miss_turn(id, record, full)
    else
      grant(id, record)
    end
  end

  -- Give the limit's free permits to the first in line whose session has room.
  local function serve(limit)
    local from = members.first(limit)
    while true do
      local line = call('ZRANGEBYLEX', key.turns, from, members.last(limit), 'LIMIT', 0, 16)
      if #line == 0 then return end
      for _, member in ipairs(line) do
        from = '(' .. member
        local order = string.sub(member, #limit + 2)
        if not lines.has_free(limit, order) then return end
        serve_one(string.match(order, members.US .. '(.*)$'), order, limit)
      end
    end
  end

  local function serve_all()
    for limit in limits.next_touched do serve(limit) end
  end

  -- A request for a permit: granted at once where every limit has one, else it stands in line.
  local function ask(id, row)
    local record = {
      c = row[ASK.claims], a = clock.arrival_of(row[ASK.age]), g = 0, k = 0, t = row[ASK.task_id], n = row[ASK.task],
    }
    if meta.served_to then -- others may wait in lines that are not served yet
      for _, claim in ipairs(record.c) do limits.touch(claim[1]) end
      serve_all()
    end
    call('ZADD', key.roll, 0, members.roll_member(id, 0))
    local full = lines.blocking(record, members.order_key(id, record))
    if full then
      lines.stand(id, record, full)
    elseif rooms.of(members.owner(id)) > 0 then
      grant(id, record)
    else
      lines.stand(id, record, record.c[1][1])
      rooms.offer(id, record)
    end
  end

  serving = { remove = remove, serve_all = serve_all, ask = ask }
end
