-- uses: input members limits units wants notices
-- Who waits for a limit while others could use its units again.
--
-- CONTENDED has the one session that waits, or * for several; it may be behind, and says then that more wait than do.
local contention
do
  -- Somebody of session sid waits for the limit: recall idle and reused units of every other session.
  local function begin(limit, sid)
    local flag = call('HGET', key.contended, limit)
    if flag == '*' or flag == sid then return end
    call('HSET', key.contended, limit, flag and '*' or sid)
    for _, holder in ipairs(units.sessions_of(limit)) do
      if holder ~= input.me and (flag or holder ~= sid) then notices.to(holder).limits[limit] = true end
    end
  end

  -- Nobody waits for it any more.
  local function finish_if_empty(limit)
    local first, last = members.first(limit), members.last(limit)
    if #call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, 1) == 0
      and #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) == 0 then
      call('HDEL', key.contended, limit)
    end
  end

  -- How many requests of these wants came before an arrival (nil: all).
  local function count_before(ids, arrival)
    local count = 0
    for _, id in ipairs(ids) do
      for _, request in ipairs(wants.load(id).r) do
        if arrival and request[1] >= arrival then break end
        count = count + 1
      end
    end
    return count
  end

  -- Must this session give units of the limit back rather than use them again? (Yes when in doubt.) And how many of its
  -- own requests are at the head of the line: for those it may use units again all the same.
  local function between(limit, sid, flag)
    local SCAN = 64 -- how many wants are looked at to see whether only one session waits
    local max = limits.max_of(limit)
    if max and units.held(limit) > max then return true, 0 end
    if not flag or flag == sid then return false, 0 end
    local first, last = members.first(limit), members.last(limit)
    if #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) > 0 then return true, 0 end
    local line, own = call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, SCAN), {}
    for _, member in ipairs(line) do
      local arrival, id = string.match(string.sub(member, #limit + 2), '^(%d+)' .. members.US .. '(.*)$')
      if members.owner(id) ~= sid then return true, count_before(own, arrival) end
      table.insert(own, id)
    end
    if #line == SCAN then return true, count_before(own) end
    if #line == 0 then call('HDEL', key.contended, limit) else call('HSET', key.contended, limit, sid) end
    return false, 0
  end

  -- What a session is told of limits: those that others wait for, each with its own streak at the head of the line.
  local function recall(names, sid)
    local listed, found = {}, nil
    for limit in pairs(names) do listed[#listed + 1] = limit end
    limits.look_at(listed)
    units.look_at(listed)
    local flags = members.fields(key.contended, listed)
    for i, limit in ipairs(listed) do
      local is_contended, streak = between(limit, sid, flags[i])
      if is_contended then
        found = found or {}
        found[limit] = streak
      end
    end
    return found
  end

  contention = { begin = begin, finish_if_empty = finish_if_empty, recall = recall }
end
