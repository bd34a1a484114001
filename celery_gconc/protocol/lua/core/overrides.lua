-- uses: meta time members limit_table
-- What operators set at run time, for a time or for good, and what holds for a limit because of it.
--
-- An override is {max, set, pause}: max (-1: unlimited) and set, or pause, or all of them; set and pause are marks,
-- {by, at (wall time, ms), reason, ends (wall time, ms)}. reason and ends may be absent.
local overrides
do
  local function of(limit)
    local text = call('HGET', key.overrides, limit)
    return text and cjson.decode(text) or {}
  end

  -- The value that holds for a limit, from its override and the configured one. Return whether it is another.
  local function refresh(limit)
    local override, value = of(limit), nil
    if override.pause then
      value = 0
    elseif not override.max then
      value = limit_table.configured(limit)
    elseif override.max >= 0 then
      value = override.max
    end
    return limit_table.hold_to(limit, value)
  end

  local function end_of(mark) return mark and mark.ends or math.huge end

  local function expect_end(at)
    meta.next_override_end = at
    if at then
      call('HSET', key.meta, 'next_override_end', members.int(at))
    else
      call('HDEL', key.meta, 'next_override_end')
    end
  end

  local function note_end(limit, override)
    local first_end = math.min(end_of(override.set), end_of(override.pause))
    if first_end == math.huge then
      call('ZREM', key.ends, limit)
      return
    end
    call('ZADD', key.ends, members.int(first_end), limit)
    if first_end < (meta.next_override_end or math.huge) then expect_end(first_end) end
  end

  -- What an operator has set for a limit: its max, a pause, both, or nothing any more.
  local function set(limit, override)
    if not override.max and not override.pause then
      call('HDEL', key.overrides, limit)
    else
      call('HSET', key.overrides, limit, cjson.encode(override))
    end
    note_end(limit, override)
    if not refresh(limit) then limit_table.changed(limit) end
  end

  -- What operators set for a time, and whose time is over, is reset: of so many limits, the others by the next scripts.
  local function end_due()
    local SOME = math.ceil(constant.WORK / 8)
    for _, limit in ipairs(call('ZRANGEBYSCORE', key.ends, '-inf', members.int(time.now), 'LIMIT', 0, SOME)) do
      local override = of(limit)
      if end_of(override.set) <= time.now then override.max, override.set = nil, nil end
      if end_of(override.pause) <= time.now then override.pause = nil end
      set(limit, override)
    end
    expect_end(tonumber(call('ZRANGE', key.ends, 0, 0, 'WITHSCORES')[2]))
  end

  overrides = { of = of, set = set, end_due = end_due, refresh = refresh }
end
