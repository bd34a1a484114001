-- uses: meta time members limits
-- News: what has changed in the limit table since a version, and which sessions are yet to be told.
--
-- VERSIONS has each limit by the version with which its max, or what operators have set for it, last changed; one for which
-- nothing holds any more as well, until every live session goes by a table that lacks it (GONE has just those).
-- Sessions listen to one of SHARDS channels. A script tells those of some shards, the next ones the others: META has the
-- version that all of them were told, the next shard, and how many are still to hear of a newer one.
local news
do
  -- What has changed since a version (-1: all that there is), the first PIECE of it: before and version, of tables that
  -- they lead from and to, at (when that was; ms), and LIMIT rows.
  local function since(version)
    local found = call('ZRANGEBYSCORE', key.versions, '(' .. members.int(version), '+inf', 'WITHSCORES', 'LIMIT', 0,
      constant.PIECE)
    local names = {}
    for i = 1, #found, 2 do names[#names + 1] = found[i] end
    local maxima, texts = members.fields(key.max, names), members.fields(key.overrides, names)
    local rows = {}
    for i, limit in ipairs(names) do
      rows[i] = {
        [LIMIT.limit] = limit, [LIMIT.max] = tonumber(maxima[i]) or -1, [LIMIT.override] = texts[i] or '',
      }
    end
    local is_all = #names < constant.PIECE
    return { before = version, version = is_all and meta.version or tonumber(found[#found]), at = time.now, rows = rows }
  end

  local function what_to_tell()
    local MS_EACH = 0.5 -- of the time over which sessions spread their syncs
    local notice = { version = meta.version, spread = math.ceil(call('ZCARD', key.sessions) * MS_EACH) }
    local changes = since(meta.told)
    if changes.version == meta.version then notice.changes = changes end
    return cjson.encode(notice)
  end

  -- Tell some of those who have not heard of the newest version. A newer one than they are just told of goes on with the
  -- next shard, and once round: so nobody is left out, however fast they follow each other.
  local function tell()
    if meta.version ~= meta.version_before then meta.untold = constant.SHARDS end
    local text, reached = what_to_tell(), 0
    while meta.untold > 0 and reached < constant.RECEIVERS do
      reached = reached + call('PUBLISH', ARGV[1] .. 'table:' .. meta.shard, text)
      meta.shard, meta.untold = (meta.shard + 1) % constant.SHARDS, meta.untold - 1
    end
    if meta.untold == 0 then meta.told = meta.version end
    call('HSET', key.meta, 'told', members.int(meta.told), 'shard', meta.shard, 'untold', meta.untold)
  end

  -- Every live session knows that these are gone: nobody needs to be told any more.
  local function forget_gone()
    local least = limits.least_stated() or '+inf'
    for _, limit in ipairs(call('ZRANGEBYSCORE', key.gone, '-inf', least, 'LIMIT', 0, constant.WORK)) do
      call('ZREM', key.gone, limit)
      call('ZREM', key.versions, limit)
    end
  end

  news = {
    since = since, tell = tell, forget_gone = forget_gone, are_some_untold = function() return meta.untold > 0 end,
  }
end
