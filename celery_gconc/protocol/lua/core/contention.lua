-- uses: input members limits permits notices
-- Who waits for a limit while others could use its permits again.
--
-- CONTENDED has the one session that waits, or * for several; it may be behind, and says then that more wait than do.
local contention
do
  -- Somebody of session sid waits for the limit: recall idle and reused permits of every other session.
  local function begin(limit, sid)
    local flag = call('HGET', key.contended, limit)
    if flag == '*' or flag == sid then return end
    call('HSET', key.contended, limit, flag and '*' or sid)
    local told = {}
    for _, member in ipairs(call('ZRANGEBYLEX', key.holders, members.first(limit), members.last(limit))) do
      local holder = members.owner(string.sub(member, #limit + 2))
      if not told[holder] and holder ~= input.me and (flag or holder ~= sid) then
        told[holder] = true
        notices.to(holder).limits[limit] = true
      end
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

  -- Must this session give permits of the limit back rather than use them again? (Yes when in doubt.) And how many
  -- of its own requests are at the head of the line: for those it may use a permit again all the same.
  local function between(limit, sid)
    local SCAN = 64 -- how many waiters are looked at to see whether only one session waits
    local max = limits.max_of(limit)
    if max and permits.held(limit) > max then return true, 0 end
    local flag = call('HGET', key.contended, limit)
    if not flag or flag == sid then return false, 0 end
    local first, last = members.first(limit), members.last(limit)
    if #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) > 0 then return true, 0 end
    local line = call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, SCAN)
    local streak = 0
    for _, member in ipairs(line) do
      if members.owner_of_waiter(member) ~= sid then return true, streak end
      streak = streak + 1
    end
    if #line == SCAN then return true, streak end
    if #line == 0 then call('HDEL', key.contended, limit) else call('HSET', key.contended, limit, sid) end
    return false, 0
  end

  -- What a session is told of limits: those that others wait for, each with its own streak at the head of the line.
  local function recall(names, sid)
    local found = nil
    for limit in pairs(names) do
      local is_contended, streak = between(limit, sid)
      if is_contended then
        found = found or {}
        found[limit] = streak
      end
    end
    return found
  end

  contention = { begin = begin, finish_if_empty = finish_if_empty, recall = recall }
end
