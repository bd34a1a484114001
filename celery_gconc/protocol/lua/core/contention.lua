-- uses: input members limits units hungry wants notices
-- Who waits for a limit while others could use its units again.
--
-- CONTENDED has the one session that waits, or * for several; it may be behind, and says then that more wait than do.
-- Where requests wait, others give units back as their tasks end; where all that waits can do so at the broker (hungry
-- sessions, and requests that may go back to the limit's queue), they keep a share.
local contention
do
  -- Who has units of the limit hears what to do with them, but for one session.
  local function tell(limit, but)
    for _, holder in ipairs(units.sessions_of(limit)) do
      if holder ~= input.me and holder ~= but then notices.to(holder).limits[limit] = true end
    end
  end

  -- Somebody of session sid waits for the limit: recall idle and reused units of every other session.
  local function begin(limit, sid)
    local flag = call('HGET', key.contended, limit)
    if flag == '*' or flag == sid then return end
    call('HSET', key.contended, limit, flag and '*' or sid)
    tell(limit, not flag and sid)
  end

  -- Nobody waits for it any more.
  local function finish_if_empty(limit)
    local first, last = members.first(limit), members.last(limit)
    if #call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, 1) == 0
      and #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) == 0 and #hungry.first(limit, 1) == 0 then
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

  -- Of all that could do so at the broker, and is not this session's, the one that has fewest units: how many has it?
  local function least_of_others(limit, sid, least)
    for _, one in ipairs(hungry.first(limit, 2)) do
      if one.sid ~= sid then return math.min(least or one.held, one.held) end
    end
    return least
  end

  -- How many units this session keeps as its tasks end, where another that has `least` would use more: with two between
  -- them, half of what is between them goes, but none below an equal share. So they come to rest.
  local function share_of(limit, sid, least)
    local own, sharers = units.of(sid, limit), units.count_sessions(limit) + hungry.count_without(limit)
    local equal = math.floor((limits.max_of(limit) or own) / math.max(sharers, 1))
    return math.max(own - math.max(math.floor((own - least) / 2), 0), equal, 0)
  end

  -- Must this session give units of the limit back rather than use them again? (Yes when in doubt.) Then, how many of its
  -- own requests are at the head of the line: for those it may use units again all the same. If not, how many units it is
  -- to keep at most; nil where nobody else has a use for any.
  local function between(limit, sid, flag)
    local SCAN, READ = 64, 8 -- of how many wants the session is looked at, and of how many others' what is known of them
    local max = limits.max_of(limit)
    if max and units.held(limit) > max then return 0 end
    if not flag or flag == sid then return nil end
    local first, last = members.first(limit), members.last(limit)
    if #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) > 0 then return 0 end
    local line, own, least, read = call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, SCAN), {}, nil, 0
    for _, member in ipairs(line) do
      local arrival, id = string.match(string.sub(member, #limit + 2), '^(%d+)' .. members.US .. '(.*)$')
      local owner = members.owner(id)
      if owner == sid then
        table.insert(own, id)
      elseif read == READ then
        break -- these wait at the broker soon
      elseif wants.may_go_back(wants.load(id), limit) then
        local held = units.of(owner, limit)
        least, read = math.min(least or held, held), read + 1
      else
        return count_before(own, arrival)
      end
    end
    if #line == SCAN and not least then return count_before(own) end
    least = least_of_others(limit, sid, least)
    if least then return nil, share_of(limit, sid, least) end
    if #line == 0 and #hungry.first(limit, 1) == 0 then
      call('HDEL', key.contended, limit)
    else
      call('HSET', key.contended, limit, sid)
    end
    return nil
  end

  -- What a session is told of limits: those that others wait for, each with its own streak at the head of the line; and
  -- those of which others would use more, each with how many units it is to keep.
  local function recall(names, sid)
    local listed, found, shares = {}, nil, nil
    for limit in pairs(names) do listed[#listed + 1] = limit end
    limits.look_at(listed)
    units.look_at(listed)
    local flags = members.fields(key.contended, listed)
    for i, limit in ipairs(listed) do
      local streak, share = between(limit, sid, flags[i])
      if streak then
        found = found or {}
        found[limit] = streak
      elseif share then
        shares = shares or {}
        shares[limit] = share
      end
    end
    return found, shares
  end

  contention = { begin = begin, tell = tell, finish_if_empty = finish_if_empty, recall = recall }
end
