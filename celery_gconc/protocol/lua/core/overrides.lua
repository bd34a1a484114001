-- uses: meta time members limits
-- What operators set at run time, for a time or for good, and what holds for a limit because of it.
--
-- An override is {max (-1: unlimited), by, at, reason, ends} and the same of a pause.
local overrides
do
  local FIELDS = {
    value = { 'max', 'by', 'at', 'reason', 'ends' },
    pause = { 'paused', 'paused_by', 'paused_at', 'paused_reason', 'paused_ends' },
  }

  local function of(limit)
    local text = call('HGET', key.overrides, limit)
    return text and cjson.decode(text) or {}
  end

  -- The value that holds for a limit, from its override and the configured one.
  local function refresh(limit)
    local override, value = of(limit), nil
    if override.paused then
      value = 0
    elseif override.max == nil or override.max == cjson.null then
      value = limits.configured(limit)
    elseif override.max >= 0 then
      value = override.max
    end
    limits.hold_to(limit, value)
  end

  -- What an operator has set for a limit: its max, a pause, both, or nothing any more.
  local function set(limit, override)
    if override.max == nil and not override.paused then
      call('HDEL', key.overrides, limit)
    else
      call('HSET', key.overrides, limit, cjson.encode(override))
      local first_end = math.min(override.ends or math.huge, override.paused_ends or math.huge)
      if first_end < (meta.ends or math.huge) then
        meta.ends = first_end
        call('HSET', key.meta, 'ends', members.int(first_end))
      end
    end
    refresh(limit)
  end

  -- As it stands: sessions remember it for the case that it is lost here.
  local function all()
    local fields = call('HGETALL', key.overrides)
    local texts = {}
    for i = 1, #fields, 2 do texts[fields[i]] = fields[i + 1] end
    return texts
  end

  -- What operators set for a time, and whose time is over, is reset.
  local function end_due()
    if not meta.ends or time.now < meta.ends then return end
    meta.ends = nil
    call('HDEL', key.meta, 'ends')
    for limit, text in pairs(all()) do
      local override = cjson.decode(text)
      if override.ends and override.ends <= time.now then
        for _, field in ipairs(FIELDS.value) do override[field] = nil end
      end
      if override.paused_ends and override.paused_ends <= time.now then
        for _, field in ipairs(FIELDS.pause) do override[field] = nil end
      end
      set(limit, override)
    end
  end

  -- The smallest value that a live session is configured with, found anew.
  local function configure(limit)
    local least = nil
    for _, sid in ipairs(call('ZRANGE', key.sessions, 0, -1)) do
      local config = cjson.decode(call('HGET', key.session, sid .. ':config') or '{}')
      if config[limit] and (not least or config[limit] < least) then least = config[limit] end
    end
    limits.configure_with(limit, least)
    refresh(limit)
  end

  overrides = {
    FIELDS = FIELDS, of = of, set = set, all = all, end_due = end_due, refresh = refresh, configure = configure,
  }
end
