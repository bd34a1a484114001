-- uses: members overrides
-- What live sessions are configured with: the least value for a limit counts.
--
-- CONFIGURED has each value twice: under its limit, least first, and under its session.
local configs
do
  local US = members.US

  local function of_limit(limit, max, sid) return limit .. US .. max .. US .. sid end
  local function of_session(limit, max, sid) return US .. sid .. US .. limit .. US .. max end
  local function range_of(sid) return '[' .. US .. sid .. US, '(' .. US .. sid .. members.AFTER end
  local function read(member, sid)
    return string.match(string.sub(member, #sid + 3), '^([^' .. US .. ']*)' .. US .. '(%d+)$')
  end

  -- The two least values for a limit, each with its session.
  local function least_two(limit)
    local found = call('ZRANGEBYLEX', key.configured, members.first(limit), members.last(limit), 'LIMIT', 0, 2)
    for i, member in ipairs(found) do found[i] = string.sub(member, #limit + 2) end
    return found[1], found[2]
  end

  -- Add or remove many members in few calls, then let the limits go by what is least now.
  local function apply(command, arguments, changed)
    local MAX_ARGUMENTS = 1000
    for first = 1, #arguments, MAX_ARGUMENTS do
      local last = math.min(first + MAX_ARGUMENTS - 1, #arguments)
      call(command, key.configured, unpack(arguments, first, last))
    end
    for _, limit in ipairs(changed) do overrides.refresh(limit) end
  end

  local function begin(sid, config)
    local arguments, changed = {}, {}
    for limit, max in pairs(config) do
      local least, text = least_two(limit), string.format('%010.0f', max)
      for _, member in ipairs({ of_limit(limit, text, sid), of_session(limit, text, sid) }) do
        table.insert(arguments, 0)
        table.insert(arguments, member)
      end
      if not least or text < string.sub(least, 1, 10) then table.insert(changed, limit) end
    end
    apply('ZADD', arguments, changed)
  end

  -- Some of a session's values no longer count. Return how many.
  local function end_some(sid, at_most)
    local from, to = range_of(sid)
    local found = call('ZRANGEBYLEX', key.configured, from, to, 'LIMIT', 0, at_most)
    local arguments, changed = {}, {}
    for _, member in ipairs(found) do
      local limit, max = read(member, sid)
      table.insert(arguments, member)
      table.insert(arguments, of_limit(limit, max, sid))
      local least, next_least = least_two(limit)
      if least == max .. US .. sid and string.sub(next_least or '', 1, 10) ~= max then table.insert(changed, limit) end
    end
    apply('ZREM', arguments, changed)
    return #found
  end

  configs = { begin = begin, end_some = end_some }
end
