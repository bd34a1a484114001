-- uses: input meta members limits units hungry wants grants rooms contention lines notices
-- The rules by which units are given.
--
-- Guarantee: after each script, no want whose session has room stands in line while all of its limits have the units for
-- it, but in lines that are put off; and of no limit are more units held than its max, but those that a session stated.
--
-- Cost    O(log N) for each grant and each unit freed, N = sessions and wants of all limits. No script gives more than
--         WORK / 5 turns past those that it is asked for: lines in which more could be done are put off to the next.
local serving
do
  -- A session is granted claims, for a request of one of its sets (0: for what it will read), and hears of it.
  local function give(sid, set, claims, request)
    rooms.set(sid, rooms.of(sid) - 1)
    local row = grants.add(sid, set, claims, request)
    for _, claim in ipairs(claims) do units.add(sid, claim[1], claim[2]) end
    if sid == input.me then return end
    local notice = notices.to(sid)
    table.insert(notice.grants, row)
    for _, claim in ipairs(claims) do notice.limits[claim[1]] = true end
  end

  -- The first request of a want gets its units. The want stands in no line then, and is forgotten with its last request.
  local function grant(id, record)
    local sid, set = string.match(id, '^([^:]*):(.*)$')
    lines.leave(id, record)
    lines.unreserve(id, record)
    record.k, record.o = 0, nil
    give(sid, tonumber(set), record.c, table.remove(record.r, 1))
    if #record.r == 0 then wants.forget(id) end
  end

  -- Nobody waits under a want any more.
  local function remove(id)
    local record = wants.load(id)
    if not record then return end
    lines.leave(id, record)
    lines.unreserve(id, record)
    wants.forget(id)
  end

  -- Others wait under a want than before: it keeps its position where the first is the same. They may all go back to a
  -- queue, of this limit; nil: not all.
  local function change(id, record, requests, queue_limit)
    if record.q ~= queue_limit then
      record.q = queue_limit
      if record.at then contention.tell(record.at) end
    end
    if record.r[1][1] == requests[1][1] then return lines.keep(id, record, requests) end
    local limit = record.at
    lines.leave(id, record)
    lines.unreserve(id, record)
    record.r, record.k, record.o = requests, 0, nil
    lines.stand(id, record, limit)
    limits.touch(limit)
  end

  -- Its turn came, but another of its limits is full: it stands in that one's line, with its old arrival.
  -- After TURNS such misses its units are held back for it in each of its limits. Only those that arrived later
  -- are held up by that, so two such wants can't wait for each other.
  local function miss_turn(id, record, full)
    lines.leave(id, record)
    record.k = record.k + 1
    if record.k == constant.TURNS then lines.reserve(id, record) end
    lines.stand(id, record, full)
  end

  local function serve_one(id, record, order, limit)
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
      if #record.r > 0 then lines.stand(id, record, limit) end
    end
  end

  local function first_in_turn(limit)
    local member = call('ZRANGEBYLEX', key.turns, members.first(limit), members.last(limit), 'LIMIT', 0, 1)[1]
    return member and string.sub(member, #limit + 2)
  end

  -- Is the line of another limit of a want still to be served, in which somebody stands who came before it? Then this
  -- limit's line is served again after that: by this script, or by the next ones. Return whether it is so.
  local function gives_way(record, order, limit)
    local now_or_later
    for _, claim in ipairs(record.c) do
      local other = claim[1]
      local serve_again = limits.is_touched(other) and limits.touch or limits.is_for_later(other) and limits.put_off
      if other ~= limit and serve_again then
        local first = first_in_turn(other)
        if first and first < order and now_or_later ~= limits.put_off then now_or_later = serve_again end
      end
    end
    if now_or_later then now_or_later(limit) end
    return now_or_later ~= nil
  end

  -- Give the limit's free units to the first in line whose session has room. Where they are not enough for that one, they
  -- are kept for it.
  local turns_left = limits.MAX_TURNS
  local function serve(limit)
    while true do
      local order = first_in_turn(limit)
      if not order then return end
      local id = lines.id_at(order)
      local record = wants.load(id)
      local is_enough = lines.has_free(limit, wants.weight_on(record, limit), order)
      if not is_enough and (rooms.of(members.owner(id)) > 0 or not lines.has_free(limit, 1, order)) then return end
      if turns_left <= 0 then
        limits.put_off(limit)
        return
      end
      turns_left = turns_left - 1
      if is_enough and gives_way(record, order, limit) then return end
      if is_enough then
        serve_one(id, record, order, limit)
      else
        rooms.offer(id, record) -- where it comes to have room, what becomes free is kept for it
        lines.set_aside(members.owner(id), limit .. members.US .. order)
      end
    end
  end

  -- What nobody waits for goes to hungry sessions, each unit to who has the fewest: it comes without a request, and with
  -- one of the app's limit, where there is one free, for that is needed as well.
  local LAST = '~' -- behind every arrival
  local function feed_one(limit, sid)
    local claims = { { limit, 1 } }
    if limits.max_of('app') and lines.has_free('app', 1, LAST) then table.insert(claims, { 'app', 1 }) end
    hungry.fed(sid, limit)
    give(sid, 0, claims, { '', '', '' })
  end
  local function feed(limit)
    local LOOKED_AT = 16 -- how many are looked at for one with room
    while limits.max_of(limit) and lines.has_free(limit, 1, LAST) do
      local found
      for _, one in ipairs(hungry.first(limit, LOOKED_AT)) do
        if rooms.of(one.sid) > 0 then
          found = one.sid
          break
        end
      end
      if not found then return end
      if turns_left <= 0 then
        limits.put_off(limit)
        return
      end
      turns_left = turns_left - 1
      feed_one(limit, found)
    end
  end

  local served = {}
  local function serve_all()
    for limit in limits.next_touched do
      serve(limit)
      served[#served + 1] = limit
    end
  end

  -- When all requests have had their turns.
  local function feed_all()
    for _, limit in ipairs(served) do feed(limit) end
    served = {}
  end

  -- The first of its limits in whose line others are still to be served.
  local function put_off_for(record)
    for _, claim in ipairs(record.c) do
      if limits.is_put_off(claim[1]) then return claim[1] end
    end
  end

  local function enter(id, record, limit)
    if not meta.heavy and wants.is_heavy(record) then
      meta.heavy = true
      call('HSET', key.meta, 'heavy', '1')
    end
    wants.enrol(id)
    lines.stand(id, record, limit)
  end

  -- A new want: its requests are granted at once where every limit has the units, else it stands in line.
  local function ask(id, record)
    if meta.served_to then -- others may wait in lines that are not served yet
      for _, claim in ipairs(record.c) do limits.touch(claim[1]) end
      serve_all()
    end
    repeat
      local full = put_off_for(record) or lines.blocking(record, members.order_key(id, record))
      if full then return enter(id, record, full) end
      if rooms.of(members.owner(id)) <= 0 then
        enter(id, record, record.c[1][1])
        return rooms.offer(id, record)
      end
      grant(id, record)
    until #record.r == 0
  end

  serving = { remove = remove, change = change, serve_all = serve_all, feed_all = feed_all, ask = ask }
end
