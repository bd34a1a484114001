-- uses: meta members
-- Limits: which max holds, which are settling, and in which of them units may have become free.
local limits
do
  local some_things = call('EXISTS', key.todo, key.settling, key.gone) -- one call in place of three: mostly there are none
  local function exists(one) return some_things > 0 and call('EXISTS', one) == 1 end

  -- How many turns a script gives past those that it is asked for: each is five times the work of most other things.
  local MAX_TURNS = math.ceil(constant.WORK / 5)

  -- The work list of those in which units may have become free.
  local queue, queued = {}, {}
  local function touch(limit)
    if not queued[limit] then
      queued[limit] = true
      queue[#queue + 1] = limit
    end
  end
  -- Of the lines behind that of a limit, in order of name, some are touched; return the last of them, nil at the end.
  local function touch_lines_after(limit)
    for _ = 1, MAX_TURNS do
      local member = call('ZRANGEBYLEX', key.waiters, members.last(limit), '+', 'LIMIT', 0, 1)[1]
      if not member then return nil end
      limit = string.match(member, '^([^' .. members.US .. ']*)')
      touch(limit)
    end
    return limit
  end
  -- Grants go on: some of the lines are served in each script, in order of name.
  local function serve_lines()
    meta.served_to = touch_lines_after(meta.served_to)
    if meta.served_to then
      call('HSET', key.meta, 'served_to', meta.served_to)
    else
      call('HDEL', key.meta, 'served_to')
    end
  end
  local function is_touched(limit) return queued[limit] end
  local function are_some_touched() return next(queued) ~= nil end
  local function were_some_touched() return #queue > 0 end
  local taken = 0
  local function next_touched()
    taken = taken + 1
    local limit = queue[taken]
    if limit then queued[limit] = nil else taken = taken - 1 end
    return limit
  end

  -- TODO has those in whose lines this script did not do all that could be done, the last one last.
  local some_are_put_off = exists(key.todo)
  local function is_put_off(limit) return some_are_put_off and call('ZSCORE', key.todo, limit) and true or false end
  local function put_off(limit)
    local last = call('ZRANGE', key.todo, -1, -1, 'WITHSCORES')[2]
    call('ZADD', key.todo, (tonumber(last) or 0) + 1, limit)
    some_are_put_off = true
  end
  -- Is its line left to the next scripts?
  local function is_for_later(limit) return is_put_off(limit) or meta.served_to and limit > meta.served_to end
  local function take_up()
    if not some_are_put_off then return end
    for _, limit in ipairs(call('ZRANGE', key.todo, 0, MAX_TURNS - 1)) do
      call('ZREM', key.todo, limit)
      touch(limit)
    end
    some_are_put_off = call('EXISTS', key.todo) == 1
  end

  local maxima = {}
  local function know_max(limit, max) maxima[limit] = max or false end
  local function max_of(limit) -- false = unlimited
    local max = maxima[limit]
    if max == nil then
      max = tonumber(call('HGET', key.max, limit)) or false
      maxima[limit] = max
    end
    return max
  end

  -- Many at once, to be asked for later.
  local function look_at(names)
    local found = members.fields(key.max, names)
    for i, limit in ipairs(names) do
      if maxima[limit] == nil then maxima[limit] = tonumber(found[i]) or false end
    end
  end

  -- SETTLING has limits by the version of the table with which they began; META has the version with which all did.
  local some_settle = exists(key.settling)
  local settling = {} -- as far as it was looked at
  local function is_settling(limit)
    if meta.all_settle and max_of(limit) then return true end
    if not some_settle then return false end
    if settling[limit] == nil then settling[limit] = call('ZSCORE', key.settling, limit) and true end
    return settling[limit]
  end
  local function settle_with(limit, version)
    call('ZADD', key.settling, version, limit)
    settling[limit], some_settle = true, true
  end
  local function has_settled(limit)
    if not some_settle then return end
    call('ZREM', key.settling, limit)
    settling[limit] = false
  end

  -- The least version that a live session has stated what it runs by; nil where none lives.
  local function least_stated() return call('ZRANGE', key.stated, 0, 0, 'WITHSCORES')[2] end

  -- Limits that began while tasks ran open once every live session has stated what it runs under them: some in each
  -- script, the others stay as they are until the next.
  local function open_settled()
    if not some_settle and not meta.all_settle then return end
    local stated = least_stated()
    local least = stated or '+inf'
    if meta.all_settle and (not stated or tonumber(stated) >= meta.all_settle) then
      meta.all_settle = nil
      call('HDEL', key.meta, 'all_settle')
      if not meta.closed_until then
        meta.served_to = ''
        serve_lines()
      end
    end
    for _, limit in ipairs(call('ZRANGEBYSCORE', key.settling, '-inf', least, 'LIMIT', 0, constant.WORK)) do
      has_settled(limit)
      touch(limit)
    end
  end

  limits = {
    MAX_TURNS = MAX_TURNS, touch = touch, is_touched = is_touched, are_some_touched = are_some_touched, were_some_touched = were_some_touched,
    serve_lines = serve_lines, next_touched = next_touched,
    max_of = max_of, know_max = know_max, look_at = look_at,
    is_settling = is_settling, settle_with = settle_with, has_settled = has_settled, open_settled = open_settled,
    least_stated = least_stated,
    put_off = put_off, is_put_off = is_put_off, is_for_later = is_for_later, take_up = take_up,
    are_some_put_off = function() return some_are_put_off end,
    were_some_gone = function() return exists(key.gone) end,
  }
end
