-- uses: meta members limits
-- The limit table: its changes, each of which is another version, so that whoever knows of one can be told what has
-- changed since (news.lua).
local limit_table
do
  -- Sessions are to hear of another table.
  local function new_version() meta.version = call('HINCRBY', key.meta, 'version', 1) end

  -- The max of a limit, or what operators have set for it, has changed, and is written.
  local function changed(limit)
    new_version()
    call('ZADD', key.versions, meta.version, limit)
    if call('HEXISTS', key.max, limit) == 0 and call('HEXISTS', key.overrides, limit) == 0 then
      call('ZADD', key.gone, meta.version, limit)
    else
      call('ZREM', key.gone, limit)
    end
  end

  -- Every limit begins anew.
  local function settle_all()
    if call('EXISTS', key.max) == 0 then return end
    new_version()
    meta.all_settle = meta.version
    call('HSET', key.meta, 'all_settle', members.int(meta.all_settle))
  end

  -- The max that holds for a limit is this from now on; nil: none. Return whether it is another.
  local function hold_to(limit, value)
    local old = tonumber(call('HGET', key.max, limit))
    if value == old then return false end
    limits.know_max(limit, value)
    if value then
      call('HSET', key.max, limit, members.int(value))
    else
      call('HDEL', key.max, limit)
      limits.has_settled(limit)
    end
    changed(limit)
    if not old then limits.settle_with(limit, meta.version) end
    limits.touch(limit)
    return true
  end

  -- The smallest value that a live session is configured with; nil: none.
  local function configured(limit)
    local least = call('ZRANGEBYLEX', key.configured, members.first(limit), members.last(limit), 'LIMIT', 0, 1)[1]
    return least and tonumber(string.match(least, '^%d+', #limit + 2))
  end

  limit_table = { changed = changed, settle_all = settle_all, hold_to = hold_to, configured = configured }
end
