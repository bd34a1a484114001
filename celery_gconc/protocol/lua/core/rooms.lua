-- uses: input members limits permits notices
-- Room: how many more a session could start, as it stated, less the grants since.
local rooms
do
  local known = {}
  local is_offered = false -- whether a turn came of the session that calls, which has no room
  local function of(sid)
    local left = known[sid]
    if left == nil then
      left = tonumber(call('HGET', key.session, sid .. ':room')) or 0
      known[sid] = left
    end
    return left
  end
  -- What was read of a session's room beside other fields.
  local function know(sid, left) known[sid] = left end

  local function each_waiter(sid, visit)
    local from, to = members.waiting_roll_of(sid)
    for _, member in ipairs(call('ZRANGEBYLEX', key.roll, from, to)) do
      local record = permits.load(sid .. ':' .. string.sub(member, #from))
      if record then visit(record) end
    end
  end

  local function touch_reserved(record)
    if record.k >= constant.TURNS then
      for _, claim in ipairs(record.c) do limits.touch(claim[1]) end
    end
  end

  -- A session without room has nothing held back for it: what it had reserved is free for others meanwhile.
  local function set(sid, left)
    local before = of(sid)
    known[sid] = left
    call('HSET', key.session, sid .. ':room', members.int(left))
    if left <= 0 and before > 0 and call('EXISTS', key.reserved) == 1 then each_waiter(sid, touch_reserved) end
  end

  local function touch_line(record)
    if record.at then limits.touch(record.at) end
  end

  -- Lines of a session's waiters, to be served now that it has room.
  local function touch_lines_of(sid) each_waiter(sid, touch_line) end

  -- A waiter's turn came, but its session has no room: it keeps its position in line, and its session is told, once.
  local function offer(id, record)
    if not record.o then
      record.o = 1
      permits.save(id, record)
    end
    local sid = members.owner(id)
    if sid == input.me then is_offered = true end
    if call('HGET', key.session, sid .. ':offered') == '1' then return end
    call('HSET', key.session, sid .. ':offered', '1')
    if sid ~= input.me then notices.to(sid).offer = true end
  end

  rooms = {
    of = of, know = know, set = set, touch_lines_of = touch_lines_of, offer = offer,
    is_offered = function() return is_offered end,
  }
end
