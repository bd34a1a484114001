-- uses: members clock overrides unused
-- What live sessions are configured with: the least value for a limit counts.
--
-- A configuration is known by its digest, <number of its values>-<hash of them>, and Redis has it once for all of the
-- sessions that use it. CONFIGURED has each of its values twice: under its limit, least first, and under the digest.
-- USES has its sessions. UNUSED has digests that no session may use any more, or yet: a session with it has ended, or
-- it is being sent for one that is to open. If none uses it then (lease clock, ms), its values go piece by piece.
local configs
do
  local US = members.US

  local function of_limit(limit, max, digest) return limit .. US .. max .. US .. digest end
  local function of_digest(limit, max, digest) return US .. digest .. US .. limit .. US .. max end
  local function range_of(digest) return '[' .. US .. digest .. US, '(' .. US .. digest .. members.AFTER end

  -- The limit, max and digest of a member of CONFIGURED, and the other member for the same value; nil: it is none.
  local function read(member)
    local digest, limit, max = string.match(member, '^' .. US .. '(.-)' .. US .. '(.-)' .. US .. '(%d+)$')
    if digest then return limit, max, digest, of_limit(limit, max, digest) end
    limit, max, digest = string.match(member, '^(.-)' .. US .. '(%d+)' .. US .. '(.+)$')
    if limit then return limit, max, digest, of_digest(limit, max, digest) end
  end

  -- Does Redis have all of its values? (An empty one it always has. One too many would be nothing to wait for.)
  local function is_whole(digest)
    if not digest then return false end
    local from, to = range_of(digest)
    return call('ZLEXCOUNT', key.configured, from, to) >= tonumber(string.match(digest, '^%d+'))
  end

  -- So many of its values, after one: limit to max, and the last one where there may be more.
  local function some_of(digest, at_most, after)
    local from, to = range_of(digest)
    if after then from = '(' .. US .. digest .. US .. after end
    local found = call('ZRANGEBYLEX', key.configured, from, to, 'LIMIT', 0, at_most)
    local values = {}
    for _, member in ipairs(found) do
      local limit, max = read(member)
      if limit then values[limit] = tonumber(max) end
    end
    return values, #found == at_most and string.sub(found[#found], #digest + 3) or nil
  end

  -- The two least values for a limit, each with its configuration.
  local function least_two(limit)
    local found = call('ZRANGEBYLEX', key.configured, members.first(limit), members.last(limit), 'LIMIT', 0, 2)
    for i, member in ipairs(found) do found[i] = string.sub(member, #limit + 2) end
    return found[1], found[2]
  end

  -- Add or remove some members, then let the limits go by what is least now.
  local function apply(command, arguments, changed)
    if #arguments > 0 then call(command, key.configured, unpack(arguments)) end
    for _, limit in ipairs(changed) do overrides.refresh(limit) end
  end

  -- Some values of a configuration count from now on: for so long (ms), unless a session comes to use it.
  local function take(digest, values, keep)
    local arguments, changed = {}, {}
    for limit, max in pairs(values) do
      local least, text = least_two(limit), string.format('%010.0f', max)
      for _, member in ipairs({ of_limit(limit, text, digest), of_digest(limit, text, digest) }) do
        table.insert(arguments, 0)
        table.insert(arguments, member)
      end
      if not least or text < string.sub(least, 1, 10) then table.insert(changed, limit) end
    end
    apply('ZADD', arguments, changed)
    unused.change('ZADD', members.int(clock.at + keep), digest)
  end

  local function is_used(digest)
    local from, to = '[' .. digest .. US, '(' .. digest .. members.AFTER
    return #call('ZRANGEBYLEX', key.uses, from, to, 'LIMIT', 0, 1) > 0
  end

  -- A session uses a configuration, or no longer does. It goes where no other session uses it either, unless it is being
  -- sent for another one: then when that hasn't come in time.
  local function enter(digest, sid)
    call('ZADD', key.uses, 0, digest .. US .. sid)
    unused.change('ZREM', digest)
  end
  local function leave(digest, sid)
    call('ZREM', key.uses, digest .. US .. sid)
    unused.change('ZADD', 'NX', members.int(clock.at), digest)
  end

  -- Some values of a configuration no longer count. Return how many.
  local function end_some(digest, at_most)
    local from, to = range_of(digest)
    local found = call('ZRANGEBYLEX', key.configured, from, to, 'LIMIT', 0, at_most)
    local arguments, changed = {}, {}
    for _, member in ipairs(found) do
      local limit, max, _, other = read(member)
      table.insert(arguments, member)
      if limit then
        table.insert(arguments, other)
        local least, next_least = least_two(limit)
        local is_least = least == max .. US .. digest and string.sub(next_least or '', 1, 10) ~= max
        if is_least then table.insert(changed, limit) end
      end
    end
    apply('ZREM', arguments, changed)
    return #found
  end

  -- Values of those that no session uses go, as far as it is time. Return how much work it was.
  local function end_unused(at_most)
    local work = 0
    while work < at_most do
      local left, digest = unused.until_end()
      if left ~= 0 then break end
      local count = is_used(digest) and 0 or end_some(digest, at_most - work)
      if count < at_most - work then unused.change('ZREM', digest) end
      work = work + math.max(count, 1)
    end
    return work
  end

  configs = {
    read = read, is_whole = is_whole, some_of = some_of, take = take, is_used = is_used, enter = enter,
    leave = leave, end_unused = end_unused,
  }
end
