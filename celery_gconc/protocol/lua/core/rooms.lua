-- uses: meta members limits hungry wants notices
-- Room: how many more a session could start, as it stated, less the grants since.
local rooms
do
  local known = {}
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

  local function each_want(sid, visit)
    for _, id in ipairs(wants.ids_of(sid)) do visit(wants.load(id)) end
  end

  local function touch_all(record)
    for _, claim in ipairs(record.c) do limits.touch(claim[1]) end
  end
  local function touch_held_back(record)
    if record.k >= constant.TURNS then
      touch_all(record)
    elseif wants.weight_on(record, record.at) > 1 then
      limits.touch(record.at)
    end
  end

  -- A session without room has nothing held back for it: that is free for others meanwhile.
  local function set(sid, left)
    local before = of(sid)
    known[sid] = left
    call('HSET', key.session, sid .. ':room', members.int(left))
    if left <= 0 and before > 0 and (meta.heavy or call('EXISTS', key.reserved) == 1) then
      each_want(sid, touch_held_back)
    end
  end

  local function touch_line(record)
    if record.k >= constant.TURNS then
      touch_all(record)
    elseif record.at then
      limits.touch(record.at)
    end
  end

  -- Lines of a session's wants, to be served now that it has room. (What is held back for one of them may be less than
  -- what was for a heavier one behind it.)
  local function touch_lines_of(sid)
    each_want(sid, touch_line)
    for _, limit in ipairs(hungry.limits_of(sid)) do limits.touch(limit) end
  end

  -- A want's turn came, but its session has no room: it keeps its position in line, and its session is told, once.
  local function offer(id, record)
    if not record.o then
      record.o = 1
      wants.save(id, record)
    end
    local sid = members.owner(id)
    if call('HGET', key.session, sid .. ':offered') == '1' then return end
    call('HSET', key.session, sid .. ':offered', '1')
    notices.to(sid).offer = true
  end

  rooms = {
    of = of, know = know, set = set, touch_lines_of = touch_lines_of, offer = offer,
  }
end
