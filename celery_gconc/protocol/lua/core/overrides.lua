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

  local function note_end(override)
    local first_end = math.min(end_of(override.set), end_of(override.pause))
    if first_end < (meta.next_override_end or math.huge) then
      meta.next_override_end = first_end
      call('HSET', key.meta, 'next_override_end', members.int(first_end))
    end
  end

  -- What an operator has set for a limit: its max, a pause, both, or nothing any more.
  local function set(limit, override)
    if not override.max and not override.pause then
      call('HDEL', key.overrides, limit)
    else
      call('HSET', key.overrides, limit, cjson.encode(override))
      note_end(override)
    end
    if not refresh(limit) then limit_table.changed(limit) end
  end

  -- All that is set.
  local function all()
    local fields = call('HGETALL', key.overrides)
    local texts = {}
    for i = 1, #fields, 2 do texts[fields[i]] = fields[i + 1] end
    return texts
  end

  -- What operators set for a time, and whose time is over, is reset.
  local function end_due()
    meta.next_override_end = nil
    call('HDEL', key.meta, 'next_override_end')
    for limit, text in pairs(all()) do
      local override = cjson.decode(text)
      local is_over, is_pause_over = end_of(override.set) <= time.now, end_of(override.pause) <= time.now
      if is_over then override.max, override.set = nil, nil end
      if is_pause_over then override.pause = nil end
      if is_over or is_pause_over then set(limit, override) else note_end(override) end
    end
  end

  overrides = {
    of = of, set = set, all = all, end_due = end_due, refresh = refresh,
  }
end
