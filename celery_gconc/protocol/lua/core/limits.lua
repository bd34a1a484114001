-- uses: meta members
-- The limit table: which max holds, which limits are settling, and in which of them a permit may have come free.
local limits
do
  local has_changed = false

  -- The work list of those in which a permit may have come free.
  local queue, queued = {}, {}
  local function touch(limit)
    if not queued[limit] then
      queued[limit] = true
      queue[#queue + 1] = limit
    end
  end
  local function touch_all()
    for _, limit in ipairs(call('HKEYS', key.max)) do touch(limit) end
  end
  local taken = 0
  local function next_touched()
    taken = taken + 1
    local limit = queue[taken]
    if limit then queued[limit] = nil else taken = taken - 1 end
    return limit
  end

  local maxima = {}
  local function max_of(limit) -- false = unlimited
    local max = maxima[limit]
    if max == nil then
      max = tonumber(call('HGET', key.max, limit)) or false
      maxima[limit] = max
    end
    return max
  end

  -- Limit -> the version of the table with which it began.
  local settling = {}
  local fields = call('HGETALL', key.settling)
  for i = 1, #fields, 2 do settling[fields[i]] = tonumber(fields[i + 1]) end

  local function settle_with(limit, version)
    call('HSET', key.settling, limit, version)
    settling[limit] = version
  end
  local function has_settled(limit)
    call('HDEL', key.settling, limit)
    settling[limit] = nil
  end

  -- Limits that began while tasks ran open once every live session has stated what it runs under them.
  local function open_settled()
    if not next(settling) then return end
    local least = math.huge
    for _, sid in ipairs(call('ZRANGE', key.sessions, 0, -1)) do
      least = math.min(least, tonumber(call('HGET', key.session, sid .. ':stated_version')) or 0)
    end
    for limit, since in pairs(settling) do
      if since <= least then
        has_settled(limit)
        touch(limit)
      end
    end
  end

  -- Sessions are to hear of a changed table, or of what operators set.
  local function new_version()
    meta.version = call('HINCRBY', key.meta, 'version', 1)
    has_changed = true
  end

  -- Every limit begins anew.
  local function settle_all()
    local names = call('HKEYS', key.max)
    if #names == 0 then return end
    new_version()
    for _, limit in ipairs(names) do settle_with(limit, meta.version) end
  end

  -- The max that holds for a limit is this from now on; nil: none.
  local function hold_to(limit, value)
    local old = tonumber(call('HGET', key.max, limit))
    if value == old then return end
    new_version()
    maxima[limit] = value or false
    if value then
      call('HSET', key.max, limit, members.int(value))
      if not old then settle_with(limit, meta.version) end
    else
      call('HDEL', key.max, limit)
      has_settled(limit)
    end
    touch(limit)
  end

  -- The smallest value that a live session is configured with; nil: none.
  local function configure_with(limit, value)
    if value then call('HSET', key.configured, limit, members.int(value)) else call('HDEL', key.configured, limit) end
  end
  local function configured(limit) return tonumber(call('HGET', key.configured, limit)) end

  local function all()
    local found = call('HGETALL', key.max)
    local table_ = {}
    for i = 1, #found, 2 do table_[found[i]] = tonumber(found[i + 1]) end
    return table_
  end

  limits = {
    touch = touch, touch_all = touch_all, next_touched = next_touched, max_of = max_of, settling = settling,
    settle_all = settle_all, open_settled = open_settled, new_version = new_version, hold_to = hold_to,
    configured = configured, configure_with = configure_with, all = all,
    has_changed = function() return has_changed end,
  }
end
