local call = redis.call
local key = {
  meta = KEYS[1],
  sessions = KEYS[2],
  session = KEYS[3],
  stated = KEYS[4],
  heartbeats = KEYS[5],
  units = KEYS[6],
  held = KEYS[7],
  idle = KEYS[8],
  sums = KEYS[9],
  parked = KEYS[10],
  holders = KEYS[11],
  grants = KEYS[12],
  running = KEYS[13],
  wants = KEYS[14],
  roll = KEYS[15],
  waiters = KEYS[16],
  turns = KEYS[17],
  aside = KEYS[18],
  reserved = KEYS[19],
  todo = KEYS[20],
  max = KEYS[21],
  configured = KEYS[22],
  uses = KEYS[23],
  unused = KEYS[24],
  overrides = KEYS[25],
  ends = KEYS[26],
  versions = KEYS[27],
  gone = KEYS[28],
  settling = KEYS[29],
  contended = KEYS[30],
  changes = KEYS[31],
  changed = KEYS[32],
  totals = KEYS[33],
  recent = KEYS[34],
  hungry = KEYS[35],
  takers = KEYS[36],
  apps = KEYS[37],
}
local constant = {
  KEYS = 37,
  TURNS = 3,
  WORK = 100,
  LOOKS = 200,
  PIECE = 40,
  SHARDS = 128,
  RECEIVERS = 64,
  MAX = 2147483648,
  MAX_TIMEOUT = 300000,
  LAST_RETRY = 1500,
}
local LIMIT = { limit = 1, max = 2, override = 3 }
local GRANT = { grant = 1, set = 2, claims = 3, fence = 4, at = 5 }
local WANT = { set = 1, claims = 2, skip = 3, kept = 4, requests = 5, queue_limit = 6 }
local ROW = { age = 1, task_id = 2, task = 3 }
local RUN = { claims = 1, task_id = 2, task = 3, age = 4 }

local core = {}
do
  local makers = {

input = function()

-- uses: nothing
-- What the script is asked, and whether that is what it takes.
--
-- A script first says what it takes, by `expect`: anything else is an error, and nothing has been written yet (Redis
-- does not take back what a script wrote before it failed).
--
-- KEYS    the keyspace, in the order of keys.py
-- ARGV[1] channel prefix of notices
-- ARGV[2] JSON, what the script is asked to do
-- Reply   JSON, each script its own
local input
do
  if #KEYS ~= constant.KEYS or #ARGV ~= 2 or ARGV[1] == '' then
    error('celery-gconc: not the keys and arguments of this script')
  end
  local asked = cjson.decode(ARGV[2])

  local function whole(it, least, greatest) -- (-0 would be written with its sign)
    return type(it) == 'number' and it % 1 == 0 and it >= least and it <= greatest and (it ~= 0 or 1 / it > 0)
  end
  local function short(it) return type(it) == 'string' and #it <= 4096 end
  local function flag(it) return it == true or it == false end
  local function count(it) return whole(it, 0, 9e15) end
  local function integer(it) return whole(it, -9e15, 9e15) end
  local function grant_number(it) return whole(it, 1, 999999999999) end -- sorted by its twelve digits
  local function sized(it) return whole(it, 0, 9e13) end               -- JSON carries fourteen digits
  local function milliseconds(it) return whole(it, 1, 2 ^ 31) end
  local function session_id(it)
    return type(it) == 'string' and #it <= 64 and string.find(it, '^[%w_.-]+$') ~= nil
  end

  local function every(list, kind) -- JSON: a table is an array or an object, whose keys are strings
    if type(list) ~= 'table' or (#list == 0 and next(list) ~= nil) then return false end
    for i = 1, #list do
      if not kind(list[i]) then return false end
    end
    return true
  end

  local good_names = {}
  local function limit_name(it)
    if good_names[it] then return true end
    if not short(it) or it == '' or string.find(it, '%c') then return false end
    good_names[it] = true
    return true
  end

  local function by_limit(it, kind)
    if type(it) ~= 'table' then return false end
    for limit, value in pairs(it) do
      if not limit_name(limit) or not kind(value) then return false end
    end
    return true
  end
  local function is_piece(it) -- of a table that is sent in pieces
    local number = 0
    for _ in pairs(it) do number = number + 1 end
    return number <= constant.PIECE
  end
  local function configured_max(it) return whole(it, 0, constant.MAX) end
  local function configuration(it) return by_limit(it, configured_max) end
  local function digest(it) return type(it) == 'string' and #it <= 64 and string.find(it, '^%d+%-%x+$') ~= nil end

  -- A claim is [limit, weight]; there is one for each limit.
  local function claims(it)
    if type(it) ~= 'table' or not it[1] then return false end
    local seen = {}
    for i = 1, #it do
      local claim = it[i]
      if type(claim) ~= 'table' or #claim ~= 2 or not whole(claim[2], 1, constant.MAX)
        or not (good_names[claim[1]] or limit_name(claim[1])) or seen[claim[1]] then
        return false
      end
      seen[claim[1]] = true
    end
    return true
  end

  -- A request that waits, and a want with those of its requests that are new.
  local function is_request(row)
    if type(row) ~= 'table' then return false end
    local age, id, name = row[ROW.age], row[ROW.task_id], row[ROW.task]
    return whole(age, -1e18, 1e18) and short(id) and short(name)
  end
  local function is_want(row)
    return type(row) == 'table' and whole(row[WANT.set], 1, 9e13) and claims(row[WANT.claims])
      and count(row[WANT.skip]) and count(row[WANT.kept]) and every(row[WANT.requests], is_request)
      and (row[WANT.queue_limit] == nil or limit_name(row[WANT.queue_limit]))
  end
  local function wants_(it) -- one for each set
    if not every(it, is_want) then return false end
    local seen = {}
    for i = 1, #it do
      local set = it[i][WANT.set]
      if seen[set] then return false end
      seen[set] = true
    end
    return true
  end

  local function expect(kinds)
    for field, kind in pairs(kinds) do
      if not kind(asked[field]) then error('celery-gconc: not what this script takes as ' .. field) end
    end
  end

  input = {
    asked = asked, me = asked.session, expect = expect, whole = whole, short = short, flag = flag, count = count,
    integer = integer, grant_number = grant_number, sized = sized, milliseconds = milliseconds, session_id = session_id,
    every = every, limit_name = limit_name, by_limit = by_limit, is_piece = is_piece, configuration = configuration,
    digest = digest, claims = claims, wants = wants_,
  }
end

return input
end,

meta = function()

-- uses: nothing
-- The scalars of the namespace, read once. Whoever changes one here writes it to the hash too.
local meta
do
  local found = call('HMGET', key.meta, 'clock', 'time', 'held', 'interval', 'longest', 'version', 'epoch',
    'server_id', 'epoch_began', 'heard', 'closed_until', 'fence', 'next_override_end', 'served_to', 'heavy',
    'all_settle', 'told', 'shard', 'untold', 'audit', 'over_until')
  local fence, version = tonumber(found[12]) or 0, tonumber(found[6]) or 0
  meta = {
    clock = tonumber(found[1]),              -- the lease clock (ms)
    time = tonumber(found[2]),               -- its last step (wall time, ms)
    held = tonumber(found[3]),               -- its last step that was held back (wall time, ms)
    interval = tonumber(found[4]) or 0,      -- the least of a live session (ms); while none lives, that of the last
    longest = tonumber(found[5]) or 0,       -- the longest lease of a live session (ms); likewise
    version = version, version_before = version, -- of the limit table
    epoch = found[7] or nil,
    server_id = found[8],                    -- of the server that the epoch began on
    epoch_began = tonumber(found[9]),        -- (lease clock, ms)
    heard = tonumber(found[10]) or 0,        -- the longest lease of before the epoch (ms)
    closed_until = tonumber(found[11]),      -- no grants until then: unknown sessions may live (lease clock, ms)
    fence = fence, fence_before = fence,     -- the last fencing number
    next_override_end = tonumber(found[13]), -- when what operators set for a time may next expire (wall time, ms)
    served_to = found[14] or nil,            -- the last limit whose line was served since grants go on; nil: all were
    heavy = found[15] == '1',                -- some wants are for more than one unit of a limit, or were
    all_settle = tonumber(found[16]),        -- every limit settles until each session has stated by that version
    told = tonumber(found[17]) or 0,         -- the version of the limit table that all sessions were told of
    shard = tonumber(found[18]) or 0,        -- the next of their channels to be told of a newer one
    untold = tonumber(found[19]) or 0,       -- how many of them are to be told of it
    over_until = tonumber(found[21]),        -- for so long heartbeats are statements: a limit was found above its max (lease clock, ms)
    audit = found[20] or nil,                -- of which sum an audit adds up the parts, in several scripts
  }
end

return meta
end,

members = function()

-- uses: nothing
-- How the members of the sorted sets are written. In sets ordered by name, what begins alike stands together.
local members
do
  local US = '\31'    -- between a limit's name and the rest of a member; names have no control characters
  local AFTER = '\32' -- the byte after it: the end of a limit's range

  local function int(number) return string.format('%.0f', number) end

  -- Fields of a hash, in few calls.
  local function fields(hash, names)
    local MAX_ARGUMENTS = 1000
    if #names <= MAX_ARGUMENTS then return #names > 0 and call('HMGET', hash, unpack(names)) or {} end
    local found = {}
    for first = 1, #names, MAX_ARGUMENTS do
      local some = call('HMGET', hash, unpack(names, first, math.min(first + MAX_ARGUMENTS - 1, #names)))
      for i = 1, #some do found[first + i - 1] = some[i] end
    end
    return found
  end

  -- The range of a limit's members.
  local function first(limit) return '[' .. limit .. US end
  local function last(limit) return '(' .. limit .. AFTER end

  -- The session that a want is of, by its id.
  local function owner(id) return string.match(id, '^([^:]*):') end

  -- Where a want stands in a line: the arrival of its first request, and its id among those that came at once.
  local function order_key(id, record) return record.r[1][1] .. US .. id end

  members = {
    US = US, AFTER = AFTER, int = int, fields = fields, first = first, last = last, owner = owner, order_key = order_key,
  }
end

return members
end,

time = function()

-- uses: nothing
-- Redis' wall time.
local time
do
  local parts = call('TIME')
  time = {
    now = parts[1] * 1000 + math.floor(parts[2] / 1000), -- ms
    us = parts[2] % 1000,                                -- since then
  }
end

return time
end,

clock = function()

-- uses: time meta members
-- The lease clock (ms): wall time as Redis has it, but it stands still while nobody calls, and never goes back.
--
-- One step is at most the least interval of a live session, for each trusts its lease to its end less an interval of
-- its own.
local clock
do
  local step = math.max(core.time.now - (core.meta.time or core.time.now), 0)
  local is_held = step > core.meta.interval * 1.02 -- it goes slower than the time, as nobody has called in between
  local at = (core.meta.clock or core.time.now) + math.min(step, core.meta.interval)

  local function save()
    if is_held then
      call('HSET', key.meta, 'clock', core.members.int(at), 'time', core.members.int(core.time.now), 'held', core.members.int(core.time.now))
    else
      call('HSET', key.meta, 'clock', core.members.int(at), 'time', core.members.int(core.time.now))
    end
  end

  -- age: us since a request reached its gate, by its worker's clock; so it stands where it belongs however late we hear.
  local function arrival_of(age)
    local arrival = core.members.int(math.max(at * 1000 + core.time.us - math.max(age, 0), 0))
    return string.rep('0', 16 - #arrival) .. arrival
  end

  clock = { at = at, is_held = is_held, save = save, arrival_of = arrival_of }
end

return clock
end,

limits = function()

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
      local member = call('ZRANGEBYLEX', key.waiters, core.members.last(limit), '+', 'LIMIT', 0, 1)[1]
      if not member then return nil end
      limit = string.match(member, '^([^' .. core.members.US .. ']*)')
      touch(limit)
    end
    return limit
  end
  -- Grants go on: some of the lines are served in each script, in order of name.
  local function serve_lines()
    core.meta.served_to = touch_lines_after(core.meta.served_to)
    if core.meta.served_to then
      call('HSET', key.meta, 'served_to', core.meta.served_to)
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
  local function is_for_later(limit) return is_put_off(limit) or core.meta.served_to and limit > core.meta.served_to end
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
    local found = core.members.fields(key.max, names)
    for i, limit in ipairs(names) do
      if maxima[limit] == nil then maxima[limit] = tonumber(found[i]) or false end
    end
  end

  -- SETTLING has limits by the version of the table with which they began; META has the version with which all did.
  local some_settle = exists(key.settling)
  local settling = {} -- as far as it was looked at
  local function is_settling(limit)
    if core.meta.all_settle and max_of(limit) then return true end
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
    if not some_settle and not core.meta.all_settle then return end
    local stated = least_stated()
    local least = stated or '+inf'
    if core.meta.all_settle and (not stated or tonumber(stated) >= core.meta.all_settle) then
      core.meta.all_settle = nil
      call('HDEL', key.meta, 'all_settle')
      if not core.meta.closed_until then
        core.meta.served_to = ''
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

return limits
end,

limit_table = function()

-- uses: meta members limits
-- The limit table: its changes, each of which is another version, so that whoever knows of one can be told what has
-- changed since (news.lua).
local limit_table
do
  -- Sessions are to hear of another table.
  local function new_version() core.meta.version = call('HINCRBY', key.meta, 'version', 1) end

  -- The max of a limit, or what operators have set for it, has changed, and is written.
  local function changed(limit)
    new_version()
    call('ZADD', key.versions, core.meta.version, limit)
    if call('HEXISTS', key.max, limit) == 0 and call('HEXISTS', key.overrides, limit) == 0 then
      call('ZADD', key.gone, core.meta.version, limit)
    else
      call('ZREM', key.gone, limit)
    end
  end

  -- Every limit begins anew.
  local function settle_all()
    if call('EXISTS', key.max) == 0 then return end
    new_version()
    core.meta.all_settle = core.meta.version
    call('HSET', key.meta, 'all_settle', core.members.int(core.meta.all_settle))
  end

  -- The max that holds for a limit is this from now on; nil: none. Return whether it is another.
  local function hold_to(limit, value)
    local old = tonumber(call('HGET', key.max, limit))
    if value == old then return false end
    core.limits.know_max(limit, value)
    if value then
      call('HSET', key.max, limit, core.members.int(value))
    else
      call('HDEL', key.max, limit)
      core.limits.has_settled(limit)
    end
    changed(limit)
    if not old then core.limits.settle_with(limit, core.meta.version) end
    core.limits.touch(limit)
    return true
  end

  -- The smallest value that a live session is configured with; nil: none.
  local function configured(limit)
    local least = call('ZRANGEBYLEX', key.configured, core.members.first(limit), core.members.last(limit), 'LIMIT', 0, 1)[1]
    return least and tonumber(string.match(least, '^%d+', #limit + 2))
  end

  limit_table = { changed = changed, settle_all = settle_all, hold_to = hold_to, configured = configured }
end

return limit_table
end,

overrides = function()

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
      value = core.limit_table.configured(limit)
    elseif override.max >= 0 then
      value = override.max
    end
    return core.limit_table.hold_to(limit, value)
  end

  local function end_of(mark) return mark and mark.ends or math.huge end

  local function expect_end(at)
    core.meta.next_override_end = at
    if at then
      call('HSET', key.meta, 'next_override_end', core.members.int(at))
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
    call('ZADD', key.ends, core.members.int(first_end), limit)
    if first_end < (core.meta.next_override_end or math.huge) then expect_end(first_end) end
  end

  -- What an operator has set for a limit: its max, a pause, both, or nothing any more.
  local function set(limit, override)
    if not override.max and not override.pause then
      call('HDEL', key.overrides, limit)
    else
      call('HSET', key.overrides, limit, cjson.encode(override))
    end
    note_end(limit, override)
    if not refresh(limit) then core.limit_table.changed(limit) end
  end

  -- What operators set for a time, and whose time is over, is reset: of so many limits, the others by the next scripts.
  local function end_due()
    local SOME = math.ceil(constant.WORK / 8)
    for _, limit in ipairs(call('ZRANGEBYSCORE', key.ends, '-inf', core.members.int(core.time.now), 'LIMIT', 0, SOME)) do
      local override = of(limit)
      if end_of(override.set) <= core.time.now then override.max, override.set = nil, nil end
      if end_of(override.pause) <= core.time.now then override.pause = nil end
      set(limit, override)
    end
    expect_end(tonumber(call('ZRANGE', key.ends, 0, 0, 'WITHSCORES')[2]))
  end

  overrides = { of = of, set = set, end_due = end_due, refresh = refresh }
end

return overrides
end,

unused = function()

-- uses: clock
-- Configurations that no session uses: UNUSED has their digests, and when their values are to go (configs.lua).
local unused
do
  local soonest -- as far as it was looked at

  local function change(command, ...)
    soonest = nil
    call(command, key.unused, ...)
  end

  -- In how many ms the values of one are to go, and its digest; nil: there is none.
  local function until_end()
    soonest = soonest or call('ZRANGE', key.unused, 0, 0, 'WITHSCORES')
    return soonest[2] and math.max(tonumber(soonest[2]) - core.clock.at, 0), soonest[1]
  end

  unused = { change = change, until_end = until_end }
end

return unused
end,

configs = function()

-- uses: members clock overrides unused
-- What live sessions are configured with: the least value for a limit counts.
--
-- A configuration is known by its digest, <number of its values>-<hash of them>, and Redis has it once for all of the
-- sessions that use it. CONFIGURED has each of its values twice: under its limit, least first, and under the digest.
-- USES has its sessions. UNUSED has digests that no session may use any more, or yet: a session with it has ended, or
-- it is being sent for one that is to open. If none uses it then (lease clock, ms), its values go piece by piece.
local configs
do
  local US = core.members.US

  local function of_limit(limit, max, digest) return limit .. US .. max .. US .. digest end
  local function of_digest(limit, max, digest) return US .. digest .. US .. limit .. US .. max end
  local function range_of(digest) return '[' .. US .. digest .. US, '(' .. US .. digest .. core.members.AFTER end

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
    local found = call('ZRANGEBYLEX', key.configured, core.members.first(limit), core.members.last(limit), 'LIMIT', 0, 2)
    for i, member in ipairs(found) do found[i] = string.sub(member, #limit + 2) end
    return found[1], found[2]
  end

  -- Add or remove some members, then let the limits go by what is least now.
  local function apply(command, arguments, changed)
    if #arguments > 0 then call(command, key.configured, unpack(arguments)) end
    for _, limit in ipairs(changed) do core.overrides.refresh(limit) end
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
    core.unused.change('ZADD', core.members.int(core.clock.at + keep), digest)
  end

  local function is_used(digest)
    local from, to = '[' .. digest .. US, '(' .. digest .. core.members.AFTER
    return #call('ZRANGEBYLEX', key.uses, from, to, 'LIMIT', 0, 1) > 0
  end

  -- A session uses a configuration, or no longer does. It goes where no other session uses it either, unless it is being
  -- sent for another one: then when that hasn't come in time.
  local function enter(digest, sid)
    call('ZADD', key.uses, 0, digest .. US .. sid)
    core.unused.change('ZREM', digest)
  end
  local function leave(digest, sid)
    call('ZREM', key.uses, digest .. US .. sid)
    core.unused.change('ZADD', 'NX', core.members.int(core.clock.at), digest)
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
      local left, digest = core.unused.until_end()
      if left ~= 0 then break end
      local count = is_used(digest) and 0 or end_some(digest, at_most - work)
      if count < at_most - work then core.unused.change('ZREM', digest) end
      work = work + math.max(count, 1)
    end
    return work
  end

  configs = {
    read = read, is_whole = is_whole, some_of = some_of, take = take, is_used = is_used, enter = enter,
    leave = leave, end_unused = end_unused,
  }
end

return configs
end,

server = function()

-- uses: nothing
-- The server, by the id of its process; nil where our user may not ask.
local server
do
  local info = redis.pcall('INFO', 'server')
  local _, at = string.find(type(info) == 'string' and info or '', 'run_id:', 1, true)
  server = { id = at and string.match(info, '^%w+', at + 1) }
end

return server
end,

sums = function()

-- uses: meta members
-- Sums, so that nobody walks to see how many there are: of each limit the requests that wait in its line, the units that
-- lie idle and the requests that are parked; of each session the requests that wait.
--
-- SUMS has `<limit> US waiting`, `<limit> US idle`, `<limit> US parked` and `US <session>`, where it isn't 0. Whoever changes a
-- part changes the sum in the same script. `<limit> US broker` is no sum: see parked.lua.
local sums
do
  local US = core.members.US
  local WAITING, IDLE, PARKED, BROKER = US .. 'waiting', US .. 'idle', US .. 'parked', US .. 'broker'

  local function set(field, sum)
    if sum == 0 then call('HDEL', key.sums, field) else call('HSET', key.sums, field, core.members.int(sum)) end
  end
  local function add(field, more)
    if more ~= 0 and call('HINCRBY', key.sums, field, core.members.int(more)) == 0 then call('HDEL', key.sums, field) end
  end

  -- By bytes, as in sorted sets; what Lua does depends on the server's locale.
  local function is_up_to(member, last)
    for i = 1, math.min(#member, #last) do
      local one, other = string.byte(member, i), string.byte(last, i)
      if one ~= other then return one < other end
    end
    return #member <= #last
  end

  -- Where an audit adds up the parts of a sum in several scripts, it learns what becomes of those that it has passed.
  -- what: 'held', or how a field of SUMS ends or begins.
  local function note(what, group, member, more)
    if not core.meta.audit then return end
    if core.meta.audit == what .. group and is_up_to(member, call('HGET', key.meta, 'audited_to') or '') then
      call('HINCRBY', key.meta, 'audited', core.members.int(more))
    end
  end

  sums = { WAITING = WAITING, IDLE = IDLE, PARKED = PARKED, BROKER = BROKER, set = set, add = add, note = note }
end

return sums
end,

hungry = function()

-- uses: clock members
-- Hungry sessions: what waits for a queue's limit waits at the broker, and they would read more of it if they had units.
--
-- HUNGRY has each twice: under the limit, in the order in which units go to them (who has fewest of it; among those, who has
-- been hungry for longest), and under the session, with how many more it would use.
local hungry
do
  local US = core.members.US
  local are_any = call('EXISTS', key.hungry) == 1

  local function digits(count) return string.format('%012.0f', count) end
  local function by_limit(sid, limit, one) return limit .. US .. one.held .. US .. one.since .. US .. sid end
  local function by_session(sid, limit, one)
    return US .. sid .. US .. limit .. US .. one.held .. US .. one.since .. US .. core.members.int(one.wanted)
  end

  local function remove(sid, limit, one) call('ZREM', key.hungry, by_limit(sid, limit, one), by_session(sid, limit, one)) end
  local function add(sid, limit, one)
    call('ZADD', key.hungry, 0, by_limit(sid, limit, one), 0, by_session(sid, limit, one))
    are_any = true
  end

  -- Those of a session, some of them where at_most is given: the limit, and what is known of each.
  local function read(member, sid)
    local limit, held, since, wanted = string.match(member, '^(.-)' .. US .. '(%d+)' .. US .. '(%d+)' .. US .. '(%d+)$', #sid + 3)
    return limit, { held = held, since = since, wanted = tonumber(wanted) }
  end
  local function load(sid, limit)
    if not are_any then return nil end
    local from = US .. sid .. US .. limit
    local found = call('ZRANGEBYLEX', key.hungry, '[' .. from .. US, '(' .. from .. core.members.AFTER, 'LIMIT', 0, 1)[1]
    if not found then return nil end
    local _, one = read(found, sid)
    return one
  end
  local function limits_of(sid, at_most)
    if not are_any then return {} end
    local from = US .. sid
    local found = call('ZRANGEBYLEX', key.hungry, '[' .. from .. US, '(' .. from .. core.members.AFTER, 'LIMIT', 0, at_most or -1)
    for i, member in ipairs(found) do found[i] = read(member, sid) end
    return found
  end

  -- A session that has `held` units of a limit would use so many more. Return whether it was not hungry before.
  local function state(sid, limit, wanted, held)
    local one = load(sid, limit)
    if one then remove(sid, limit, one) end
    if wanted > 0 then
      add(sid, limit, { held = digits(held), since = one and one.since or core.clock.arrival_of(0), wanted = wanted })
    end
    return not one and wanted > 0
  end

  -- A session has so many units of a limit by now.
  local function moved(sid, limit, held)
    local one = load(sid, limit)
    if not one then return end
    remove(sid, limit, one)
    one.held = digits(held)
    add(sid, limit, one)
  end

  -- It was given one: the next time it comes behind those who have as many.
  local function fed(sid, limit)
    local one = load(sid, limit)
    remove(sid, limit, one)
    if one.wanted > 1 then
      add(sid, limit, { held = one.held, since = core.clock.arrival_of(0), wanted = one.wanted - 1 })
    end
  end

  -- The first of a limit, in order: each a session, and how many units it has.
  local function first(limit, at_most)
    local found = are_any and call('ZRANGEBYLEX', key.hungry, core.members.first(limit), core.members.last(limit), 'LIMIT', 0, at_most) or {}
    for i, member in ipairs(found) do
      local held, sid = string.match(member, '^(%d+)' .. US .. '%d+' .. US .. '(.*)$', #limit + 2)
      found[i] = { sid = sid, held = tonumber(held) }
    end
    return found
  end

  -- How many have none of its units.
  local function count_without(limit)
    local none = limit .. US .. digits(0)
    return are_any and call('ZLEXCOUNT', key.hungry, '[' .. none .. US, '(' .. none .. core.members.AFTER) or 0
  end

  -- Is this one of the two that a session stands in for a limit of which it has so many units?
  local function is_right(sid, limit, member, held)
    local one = load(sid, limit)
    if not one or tonumber(one.held) ~= held then return false end
    local first_, second = by_limit(sid, limit, one), by_session(sid, limit, one)
    return (member == first_ or member == second) and call('ZSCORE', key.hungry, member == first_ and second or first_)
  end

  hungry = {
    limits_of = limits_of, state = state, moved = moved, fed = fed, first = first, count_without = count_without, is_right = is_right,
  }
end

return hungry
end,

units = function()

-- uses: meta clock members limits sums hungry
-- Units: how many of each limit's max a session has, whether its tasks use them or not.
--
-- UNITS has how many of a limit a session has, HELD how many all of them have. HOLDERS has each session that has any
-- twice: under the limit, and the limit under the session. IDLE has, as UNITS, how many of them no task used when the
-- session last stated that, less those that it gave back since: idle ones go first.
local units
do
  local US = core.members.US

  local function of_limit(limit, sid) return limit .. US .. sid end
  local function of_session(limit, sid) return US .. sid .. US .. limit end

  local totals = {} -- as far as they were looked at
  local function held(limit)
    local total = totals[limit]
    if not total then
      total = tonumber(call('HGET', key.held, limit)) or 0
      totals[limit] = total
    end
    return total
  end

  -- Many at once, to be asked for later.
  local function look_at(names)
    local found = core.members.fields(key.held, names)
    for i, limit in ipairs(names) do totals[limit] = totals[limit] or tonumber(found[i]) or 0 end
  end

  -- All sessions have so many of a limit.
  local function set_held(limit, total)
    totals[limit] = total
    if total > 0 then call('HSET', key.held, limit, core.members.int(total)) else call('HDEL', key.held, limit) end
  end

  local function of(sid, limit) return tonumber(call('HGET', key.units, of_limit(limit, sid))) or 0 end

  local function set_idle(member, limit, count, before)
    if count == before then return end
    if count > 0 then call('HSET', key.idle, member, core.members.int(count)) else call('HDEL', key.idle, member) end
    core.sums.add(limit .. core.sums.IDLE, count - before)
    core.sums.note(core.sums.IDLE, limit, member, count - before)
  end
  local function lessen_idle(member, limit, less)
    local idle = tonumber(call('HGET', key.idle, member)) or 0
    if idle > 0 then set_idle(member, limit, math.max(idle - less, 0), idle) end
  end

  -- More are held than the max: by what sessions have stated, for nothing is granted above it. All who have some are told
  -- so within a heartbeat, which is a statement until then.
  local function is_over(limit)
    local max = core.limits.max_of(limit)
    if not max or held(limit) <= max then return end
    core.meta.over_until = core.clock.at + core.meta.longest
    call('HSET', key.meta, 'over_until', core.members.int(core.meta.over_until))
  end

  -- A session has so many of a limit from now on. before: how many it had, where that is known.
  local function set(sid, limit, count, before)
    before = before or of(sid, limit)
    if count == before then return end
    local member = of_limit(limit, sid)
    if count > 0 then
      call('HSET', key.units, member, core.members.int(count))
      if before == 0 then call('ZADD', key.holders, 0, member, 0, of_session(limit, sid)) end
    else
      call('HDEL', key.units, member)
      call('ZREM', key.holders, member, of_session(limit, sid))
    end
    set_held(limit, held(limit) + count - before)
    if core.meta.audit then core.sums.note('held', limit, member, count - before) end -- (no call makes sums for nothing)
    core.hungry.moved(sid, limit, count)
    if count > before then is_over(limit) end
    if count < before then
      core.limits.touch(limit)
      lessen_idle(member, limit, before - count)
    end
  end

  local function add(sid, limit, more) set(sid, limit, of(sid, limit) + more) end

  -- A session has so many of each of these limits from now on.
  local function set_all(sid, counts)
    local names, fields = {}, {}
    for limit in pairs(counts) do
      names[#names + 1] = limit
      fields[#names] = of_limit(limit, sid)
    end
    local before = core.members.fields(key.units, fields)
    for i, limit in ipairs(names) do set(sid, limit, counts[limit], tonumber(before[i]) or 0) end
  end

  -- The limits that a session has units of, some of them where at_most is given.
  local function limits_of(sid, at_most)
    local from, to = '[' .. US .. sid .. US, '(' .. US .. sid .. core.members.AFTER
    local found = call('ZRANGEBYLEX', key.holders, from, to, 'LIMIT', 0, at_most or -1)
    for i, member in ipairs(found) do found[i] = string.sub(member, #sid + 3) end
    return found
  end

  -- So many units of each limit are idle at a session; of those that it doesn't name none.
  local function state_idle(sid, counts)
    local names, fields = limits_of(sid), {}
    for i, limit in ipairs(names) do fields[i] = of_limit(limit, sid) end
    local before = core.members.fields(key.idle, fields)
    for i, limit in ipairs(names) do
      local count = counts[limit] and math.min(counts[limit], of(sid, limit)) or 0
      set_idle(fields[i], limit, count, tonumber(before[i]) or 0)
    end
  end

  -- The sessions that have units of a limit, in order of name; where at_most is given, so many of those after one.
  local function sessions_of(limit, at_most, after)
    local from = after and '(' .. of_limit(limit, after) or core.members.first(limit)
    local found = call('ZRANGEBYLEX', key.holders, from, core.members.last(limit), 'LIMIT', 0, at_most or -1)
    for i, member in ipairs(found) do found[i] = string.sub(member, #limit + 2) end
    return found
  end

  -- How many sessions have some of it.
  local function count_sessions(limit) return call('ZLEXCOUNT', key.holders, core.members.first(limit), core.members.last(limit)) end

  units = {
    held = held, set_held = set_held, look_at = look_at, of = of, set = set, set_all = set_all, add = add, limits_of = limits_of,
    sessions_of = sessions_of, count_sessions = count_sessions, state_idle = state_idle,
  }
end

return units
end,

wants = function()

-- uses: clock
-- Wants: what sessions wait for. A want is a set of claims of one session, and the requests that wait for all of it.
--
-- Its id is <session>:<number of the set>, and WANTS has one record for each, whose fields are
--   c   the claims, [[limit, weight]...]; a grant is all of them at once
--   r   the requests, first come first: [[arrival (lease clock, us, sixteen digits), task id, task]...]; never empty
--   at  the limit in whose line the first of them stands
--   k   how often that one missed its turn, as another of its limits was full
--   o   1 once its turn came while its session had no room
--   q   the limit of the queue that its messages may still go back to
-- ROLL has the ids, by session.
local wants
do
  local function load(id)
    local text = call('HGET', key.wants, id)
    return text and cjson.decode(text) or nil
  end
  local function save(id, record) call('HSET', key.wants, id, cjson.encode(record)) end

  -- Of some of a session's, where at_most is given.
  local function ids_of(sid, at_most)
    return call('ZRANGEBYLEX', key.roll, '[' .. sid .. ':', '(' .. sid .. ';', 'LIMIT', 0, at_most or -1)
  end
  local function enrol(id) call('ZADD', key.roll, 0, id) end
  local function forget(id)
    call('HDEL', key.wants, id)
    call('ZREM', key.roll, id)
  end

  -- How many units of a limit it is for.
  local function weight_on(record, limit)
    for _, claim in ipairs(record.c) do
      if claim[1] == limit then return claim[2] end
    end
    return 0
  end

  local function is_heavy(record)
    for _, claim in ipairs(record.c) do
      if claim[2] > 1 then return true end
    end
    return false
  end

  -- Can its requests wait at the broker rather than here, as this limit is their queue's?
  local function may_go_back(record, limit) return record.q == limit end

  -- Are these the same claims, in the same order?
  local function are_same(some, others)
    if #some ~= #others then return false end
    for i = 1, #some do
      if some[i][1] ~= others[i][1] or some[i][2] ~= others[i][2] then return false end
    end
    return true
  end

  -- Where one of its requests stands among all that wait.
  local function order_of(id, number, request) return request[1] .. id .. string.format('%04d', number) end

  -- For how long a request has waited (ms).
  local function waited(request) return math.max(core.clock.at - tonumber(request[1]) / 1000, 0) end

  wants = {
    load = load, save = save, ids_of = ids_of, enrol = enrol, forget = forget, weight_on = weight_on,
    is_heavy = is_heavy,
    may_go_back = may_go_back, are_same = are_same, order_of = order_of, waited = waited,
  }
end

return wants
end,

grants = function()

-- uses: meta time members
-- Grants: what a session was given, until it has said that it knows of it and, in a statement, what became of it.
--
-- GRANTS has <session>:<number of the grant, twelve digits>:<JSON, a GRANT row, the task's id, the task> for each.
local grants
do
  local function from(sid, grant) return string.format('[%s:%012.0f:', sid, grant) end
  local function before(sid, grant) return string.format('(%s:%012.0f:', sid, grant) end
  local function after_all(sid) return '(' .. sid .. ';' end
  local function row_of(member) return cjson.decode(string.match(member, '^[^:]*:%d+:(.*)$')) end

  -- The fencing number last given, in steps of 100 us of Redis' clock: it only grows, and is never behind that clock
  -- when units are granted, so it goes on growing where it was lost with the rest of the data.
  local function next_fence()
    core.meta.fence = math.max(core.meta.fence + 1, math.floor(core.time.now * 10 + core.time.us / 100))
    return core.meta.fence
  end
  local function has_seen_fence(fence) core.meta.fence = math.max(core.meta.fence, fence) end
  local function save_fence()
    call('HSET', key.meta, 'fence', core.members.int(core.meta.fence))
  end

  -- A set of a session is granted its claims, for a request that waits; return the row that tells it.
  local function add(sid, set, claims, request)
    local grant = call('HINCRBY', key.session, sid .. ':granted', 1)
    local row = {
      [GRANT.grant] = grant, [GRANT.set] = set, [GRANT.claims] = claims, [GRANT.fence] = next_fence(),
      [GRANT.at] = core.time.now,
    }
    local last = #row
    row[last + 1], row[last + 2] = request[2], request[3]
    call('ZADD', key.grants, 0, string.sub(from(sid, grant), 2) .. cjson.encode(row))
    row[last + 1], row[last + 2] = nil, nil
    return row
  end

  -- The rows of those above a number, in order, as the session is told of them; or all, with whom they were for.
  local function since(sid, grant)
    local found = call('ZRANGEBYLEX', key.grants, from(sid, grant + 1), after_all(sid))
    for i, member in ipairs(found) do
      local row = row_of(member)
      for field = #row, GRANT.at + 1, -1 do row[field] = nil end
      found[i] = row
    end
    return found
  end
  local function all(sid)
    local found = call('ZRANGEBYLEX', key.grants, from(sid, 0), after_all(sid))
    for i, member in ipairs(found) do found[i] = row_of(member) end
    return found
  end

  -- The session knows of all up to this one, and has stated what it runs.
  local function forget_to(sid, grant) call('ZREMRANGEBYLEX', key.grants, from(sid, 0), before(sid, grant + 1)) end
  -- Its task has ended.
  local function forget(sid, grant) call('ZREMRANGEBYLEX', key.grants, from(sid, grant), before(sid, grant + 1)) end
  local function forget_all(sid) call('ZREMRANGEBYLEX', key.grants, from(sid, 0), after_all(sid)) end

  grants = {
    next_fence = next_fence, has_seen_fence = has_seen_fence, save_fence = save_fence, add = add, since = since,
    all = all, forget_to = forget_to, forget = forget, forget_all = forget_all,
  }
end

return grants
end,

running = function()

-- uses: input time members grants
-- Which tasks run under limits, for people: as their sessions last stated, with what was granted since.
--
-- RUNNING has, of each session, the time of its last statement (ms) and a JSON list of RUN rows; OVER has the ids of
-- those of these tasks that have ended since, each between two core.members.US.
local running
do
  local US = core.members.US

  local function state(sid, text)
    call('HSET', key.running, sid, core.members.int(core.time.now) .. ' ' .. text)
    call('HDEL', key.session, sid .. ':over')
  end
  local function have_ended(sid, task_ids)
    if #task_ids == 0 then return end
    local over = call('HGET', key.session, sid .. ':over') or US
    call('HSET', key.session, sid .. ':over', over .. table.concat(task_ids, US) .. US)
  end
  local function forget(sid) call('HDEL', key.running, sid) end

  -- Nobody has read what a session stated until somebody asks.
  local function is_run(row)
    return type(row) == 'table' and core.input.claims(row[RUN.claims]) and core.input.short(row[RUN.task_id])
      and core.input.short(row[RUN.task]) and core.input.count(row[RUN.age])
  end
  local function read(text)
    local is_readable, rows = pcall(cjson.decode, text)
    return is_readable and type(rows) == 'table' and rows or {}
  end

  -- What a session stated, without what has ended since; each: claims, id, task, since (wall time, ms).
  local function stated(sid, text)
    local over = call('HGET', key.session, sid .. ':over') or ''
    local at, rows = string.match(text, '^(%d+) (.*)$')
    local found = {}
    for _, row in ipairs(read(rows)) do
      if is_run(row) and not string.find(over, US .. row[RUN.task_id] .. US, 1, true) then
        table.insert(found, {
          claims = row[RUN.claims], id = row[RUN.task_id], task = row[RUN.task],
          since = tonumber(at) - row[RUN.age],
        })
      end
    end
    return found
  end
  local function granted(row)
    return {
      claims = row[GRANT.claims], since = row[GRANT.at], id = row[GRANT.at + 1], task = row[GRANT.at + 2],
    }
  end

  -- All that a session runs, and how long the text is that it said so with.
  local function of(sid)
    local text = call('HGET', key.running, sid)
    local found = text and stated(sid, text) or {}
    for _, row in ipairs(core.grants.all(sid)) do
      if row[GRANT.set] > 0 then table.insert(found, granted(row)) end -- else its units are for what the session reads
    end
    return found, text and #text or 0
  end

  local function covers(claims, limit)
    for _, claim in ipairs(claims) do
      if claim[1] == limit then return claim[2] end
    end
    return nil
  end

  running = {
    state = state, have_ended = have_ended, forget = forget, stated = stated, granted = granted, of = of, covers = covers,
  }
end

return running
end,

notices = function()

-- uses: nothing
-- What other sessions are to hear when the script is done.
local notices
do
  local all = {} -- by session

  -- The notice to a session: grants, limits (whose contention it is told), offer (its turn came, but it has no room).
  -- The session that calls has it in the reply.
  local function to(sid)
    local notice = all[sid]
    if not notice then
      notice = { grants = {}, limits = {} }
      all[sid] = notice
    end
    return notice
  end

  notices = { all = all, to = to }
end

return notices
end,

rooms = function()

-- uses: meta members limits hungry wants notices
-- Room: how many more a session could start, as it stated, less the grants since.
local rooms
do
  local known = {}
  local function of(sid)
    local left = known[sid]
    if left == nil then
      left = tonumber(call('HGET', key.session, sid .. ':room')) or 0
      known[sid] = left
    end
    return left
  end
  -- What was read of a session's room beside other fields.
  local function know(sid, left) known[sid] = left end

  local function each_want(sid, visit)
    for _, id in ipairs(core.wants.ids_of(sid)) do visit(core.wants.load(id)) end
  end

  local function touch_all(record)
    for _, claim in ipairs(record.c) do core.limits.touch(claim[1]) end
  end
  local function touch_held_back(record)
    if record.k >= constant.TURNS then
      touch_all(record)
    elseif core.wants.weight_on(record, record.at) > 1 then
      core.limits.touch(record.at)
    end
  end

  -- A session without room has nothing held back for it: that is free for others meanwhile.
  local function set(sid, left)
    local before = of(sid)
    known[sid] = left
    call('HSET', key.session, sid .. ':room', core.members.int(left))
    if left <= 0 and before > 0 and (core.meta.heavy or call('EXISTS', key.reserved) == 1) then
      each_want(sid, touch_held_back)
    end
  end

  local function touch_line(record)
    if record.k >= constant.TURNS then
      touch_all(record)
    elseif record.at then
      core.limits.touch(record.at)
    end
  end

  -- Lines of a session's wants, to be served now that it has room. (What is held back for one of them may be less than
  -- what was for a heavier one behind it.)
  local function touch_lines_of(sid)
    each_want(sid, touch_line)
    for _, limit in ipairs(core.hungry.limits_of(sid)) do core.limits.touch(limit) end
  end

  -- A want's turn came, but its session has no room: it keeps its position in line, and its session is told, once.
  local function offer(id, record)
    if not record.o then
      record.o = 1
      core.wants.save(id, record)
    end
    local sid = core.members.owner(id)
    if call('HGET', key.session, sid .. ':offered') == '1' then return end
    call('HSET', key.session, sid .. ':offered', '1')
    core.notices.to(sid).offer = true
  end

  rooms = {
    of = of, know = know, set = set, touch_lines_of = touch_lines_of, offer = offer,
  }
end

return rooms
end,

contention = function()

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
    for _, holder in ipairs(core.units.sessions_of(limit)) do
      if holder ~= core.input.me and holder ~= but then core.notices.to(holder).limits[limit] = true end
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
    local first, last = core.members.first(limit), core.members.last(limit)
    if #call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, 1) == 0
      and #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) == 0 and #core.hungry.first(limit, 1) == 0 then
      call('HDEL', key.contended, limit)
    end
  end

  -- How many requests of these wants came before an arrival (nil: all).
  local function count_before(ids, arrival)
    local count = 0
    for _, id in ipairs(ids) do
      for _, request in ipairs(core.wants.load(id).r) do
        if arrival and request[1] >= arrival then break end
        count = count + 1
      end
    end
    return count
  end

  -- Of all that could do so at the broker, and is not this session's, the one that has fewest units: how many has it?
  local function least_of_others(limit, sid, least)
    for _, one in ipairs(core.hungry.first(limit, 2)) do
      if one.sid ~= sid then return math.min(least or one.held, one.held) end
    end
    return least
  end

  -- How many units this session keeps as its tasks end, where another that has `least` would use more: with two between
  -- them, half of what is between them goes, but none below an equal share. So they come to rest.
  local function share_of(limit, sid, least)
    local own, sharers = core.units.of(sid, limit), core.units.count_sessions(limit) + core.hungry.count_without(limit)
    local equal = math.floor((core.limits.max_of(limit) or own) / math.max(sharers, 1))
    return math.max(own - math.max(math.floor((own - least) / 2), 0), equal, 0)
  end

  -- Must this session give units of the limit back rather than use them again? (Yes when in doubt.) Then, how many of its
  -- own requests are at the head of the line: for those it may use units again all the same. If not, how many units it is
  -- to keep at most; nil where nobody else has a use for any.
  local function between(limit, sid, flag)
    local SCAN, READ = 64, 8 -- of how many wants the session is looked at, and of how many others' what is known of them
    local max = core.limits.max_of(limit)
    if max and core.units.held(limit) > max then return 0 end
    if not flag or flag == sid then return nil end
    local first, last = core.members.first(limit), core.members.last(limit)
    if #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) > 0 then return 0 end
    local line, own, least, read = call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, SCAN), {}, nil, 0
    for _, member in ipairs(line) do
      local arrival, id = string.match(string.sub(member, #limit + 2), '^(%d+)' .. core.members.US .. '(.*)$')
      local owner = core.members.owner(id)
      if owner == sid then
        table.insert(own, id)
      elseif read == READ then
        break -- these wait at the broker soon
      elseif core.wants.may_go_back(core.wants.load(id), limit) then
        local held = core.units.of(owner, limit)
        least, read = math.min(least or held, held), read + 1
      else
        return count_before(own, arrival)
      end
    end
    if #line == SCAN and not least then return count_before(own) end
    least = least_of_others(limit, sid, least)
    if least then return nil, share_of(limit, sid, least) end
    if #line == 0 and #core.hungry.first(limit, 1) == 0 then
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
    core.limits.look_at(listed)
    core.units.look_at(listed)
    local flags = core.members.fields(key.contended, listed)
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

return contention
end,

lines = function()

-- uses: meta members limits units wants rooms contention sums
-- Lines: where wants stand, and for which of them units are held back.
--
-- TURNS has the wants of each line whose turn may come, ASIDE the others, by session: their turn came, they had no room for
-- a task, and have not been heard of since. So nobody walks past them each time that units become free.
-- A want stands in the line of one full limit at a time, where the first of its requests belongs. After TURNS missed
-- turns its units are held back for it in each of its limits: RESERVED has it then, ordered as WAITERS. In each limit
-- that is done for one at a time, the first whose session has room: were it done for each of them, those that wait for a
-- full limit would empty the others, too. The first of all is the first in each of its limits, so its turn comes, and
-- then that of the next.
local lines
do
  local some_are_reserved = call('EXISTS', key.reserved) == 1

  local function id_at(order) return string.match(order, core.members.US .. '(.*)$') end

  -- How many units are held back for a want that came before this order key.
  local function reserved_before(limit, order)
    if not some_are_reserved then return 0 end
    local before = '(' .. limit .. core.members.US .. order
    for _, member in ipairs(call('ZRANGEBYLEX', key.reserved, core.members.first(limit), before)) do
      local id = id_at(string.sub(member, #limit + 2))
      if core.rooms.of(core.members.owner(id)) > 0 then return core.wants.weight_on(core.wants.load(id), limit) end
    end
    return 0
  end

  -- Is what is free for a want that stands in line before this order key, and needs more? (Else smaller ones would pass
  -- it for ever.) If its session has no room the line is served, and then it is for others.
  local function is_for_a_heavier(limit, free, order)
    if not core.meta.heavy then return false end
    local from, before = core.members.first(limit), '(' .. limit .. core.members.US .. order
    local first = call('ZRANGEBYLEX', key.turns, from, before, 'LIMIT', 0, 1)[1]
    if not first then return false end
    local id = id_at(string.sub(first, #limit + 2))
    if core.wants.weight_on(core.wants.load(id), limit) <= free then return false end
    if core.rooms.of(core.members.owner(id)) <= 0 then core.limits.touch(limit) end
    return true
  end

  -- Has the limit so many units for a want that stands at this order key (arrival core.members.US id)?
  local function has_free(limit, weight, order)
    local max = core.limits.max_of(limit)
    if not max then return true end
    if core.meta.closed_until or core.limits.is_settling(limit) then return false end
    local free = max - core.units.held(limit)
    if free < weight then return false end
    free = free - reserved_before(limit, order)
    return free >= weight and not is_for_a_heavier(limit, free, order)
  end

  -- The first of its other limits that has not enough for the want.
  local function blocking(record, order, but)
    for _, claim in ipairs(record.c) do
      if claim[1] ~= but and not has_free(claim[1], claim[2], order) then return claim[1] end
    end
  end

  -- So many more of its requests wait in the line of a limit.
  local function count(id, limit, member, more)
    local sid = core.members.owner(id)
    core.sums.add(limit .. core.sums.WAITING, more)
    core.sums.note(core.sums.WAITING, limit, member, more)
    core.sums.add(core.members.US .. sid, more)
    core.sums.note('session', sid, id, more)
  end

  local function stand(id, record, limit)
    record.at = limit
    core.wants.save(id, record)
    local member = limit .. core.members.US .. core.members.order_key(id, record)
    call('ZADD', key.waiters, 0, member)
    call('ZADD', key.turns, 0, member)
    count(id, limit, member, #record.r)
    core.contention.begin(limit, core.members.owner(id))
  end

  -- Its session has no room: its turn doesn't come again until that says something.
  local function set_aside(sid, member)
    call('ZREM', key.turns, member)
    call('ZADD', key.aside, 0, sid .. core.members.US .. member)
    call('HSET', key.session, sid .. ':aside', '1')
  end

  -- What was set aside of a session gets its turns again.
  local function bring_back(sid)
    local found = call('ZRANGEBYLEX', key.aside, core.members.first(sid), core.members.last(sid))
    for _, member in ipairs(found) do
      call('ZADD', key.turns, 0, string.sub(member, #sid + 2))
      call('ZREM', key.aside, member)
    end
    call('HDEL', key.session, sid .. ':aside')
  end

  local function leave(id, record)
    local limit = record.at
    if not limit then return end
    local member = limit .. core.members.US .. core.members.order_key(id, record)
    call('ZREM', key.waiters, member)
    if call('ZREM', key.turns, member) == 0 then call('ZREM', key.aside, core.members.owner(id) .. core.members.US .. member) end
    count(id, limit, member, -#record.r)
    record.at = nil
    if core.wants.weight_on(record, limit) > 1 then core.limits.touch(limit) end -- what was free was for it
    core.contention.finish_if_empty(limit)
  end

  -- It has these requests from now on, the first of which is the same as before.
  local function keep(id, record, requests)
    count(id, record.at, record.at .. core.members.US .. core.members.order_key(id, record), #requests - #record.r)
    record.r = requests
    core.wants.save(id, record)
  end

  local function reserve(id, record)
    some_are_reserved = true
    for _, claim in ipairs(record.c) do
      local limit = claim[1]
      call('ZADD', key.reserved, 0, limit .. core.members.US .. core.members.order_key(id, record))
      core.contention.begin(limit, core.members.owner(id))
    end
  end

  local function unreserve(id, record)
    if record.k < constant.TURNS then return end
    for _, claim in ipairs(record.c) do
      local limit = claim[1]
      call('ZREM', key.reserved, limit .. core.members.US .. core.members.order_key(id, record))
      core.contention.finish_if_empty(limit)
      core.limits.touch(limit)
    end
  end

  lines = {
    id_at = id_at, has_free = has_free, blocking = blocking, stand = stand, leave = leave, keep = keep, set_aside = set_aside,
    bring_back = bring_back, reserve = reserve, unreserve = unreserve,
  }
end

return lines
end,

serving = function()

-- uses: input meta members limits units hungry wants grants rooms contention lines notices
-- The rules by which units are given.
--
-- Guarantee: after each script, no want whose session has room stands in line while all of its limits have the units for
-- it, but in lines that are put off; and of no limit are more units held than its max, but those that a session stated.
--
-- Cost    O(log N) for each grant and each unit freed, N = sessions and wants of all limits. No script gives more than
--         WORK / 5 turns past those that it is asked for: lines in which more could be done are put off to the next.
local serving
do
  -- A session is granted claims, for a request of one of its sets (0: for what it will read), and hears of it.
  local function give(sid, set, claims, request)
    core.rooms.set(sid, core.rooms.of(sid) - 1)
    local row = core.grants.add(sid, set, claims, request)
    for _, claim in ipairs(claims) do core.units.add(sid, claim[1], claim[2]) end
    if sid == core.input.me then return end
    local notice = core.notices.to(sid)
    table.insert(notice.grants, row)
    for _, claim in ipairs(claims) do notice.limits[claim[1]] = true end
  end

  -- The first request of a want gets its units. The want stands in no line then, and is forgotten with its last request.
  local function grant(id, record)
    local sid, set = string.match(id, '^([^:]*):(.*)$')
    core.lines.leave(id, record)
    core.lines.unreserve(id, record)
    record.k, record.o = 0, nil
    give(sid, tonumber(set), record.c, table.remove(record.r, 1))
    if #record.r == 0 then core.wants.forget(id) end
  end

  -- Nobody waits under a want any more.
  local function remove(id)
    local record = core.wants.load(id)
    if not record then return end
    core.lines.leave(id, record)
    core.lines.unreserve(id, record)
    core.wants.forget(id)
  end

  -- Others wait under a want than before: it keeps its position where the first is the same. They may all go back to a
  -- queue, of this limit; nil: not all.
  local function change(id, record, requests, queue_limit)
    if record.q ~= queue_limit then
      record.q = queue_limit
      if record.at then core.contention.tell(record.at) end
    end
    if record.r[1][1] == requests[1][1] then return core.lines.keep(id, record, requests) end
    local limit = record.at
    core.lines.leave(id, record)
    core.lines.unreserve(id, record)
    record.r, record.k, record.o = requests, 0, nil
    core.lines.stand(id, record, limit)
    core.limits.touch(limit)
  end

  -- Its turn came, but another of its limits is full: it stands in that one's line, with its old arrival.
  -- After TURNS such misses its units are held back for it in each of its limits. Only those that arrived later
  -- are held up by that, so two such wants can't wait for each other.
  local function miss_turn(id, record, full)
    core.lines.leave(id, record)
    record.k = record.k + 1
    if record.k == constant.TURNS then core.lines.reserve(id, record) end
    core.lines.stand(id, record, full)
  end

  local function serve_one(id, record, order, limit)
    local full = core.lines.blocking(record, order, limit)
    if core.rooms.of(core.members.owner(id)) <= 0 then
      if full then
        core.lines.leave(id, record)
        core.lines.stand(id, record, full)
      else
        core.rooms.offer(id, record)
        core.lines.set_aside(core.members.owner(id), limit .. core.members.US .. order)
      end
    elseif full then
      miss_turn(id, record, full)
    else
      grant(id, record)
      if #record.r > 0 then core.lines.stand(id, record, limit) end
    end
  end

  local function first_in_turn(limit)
    local member = call('ZRANGEBYLEX', key.turns, core.members.first(limit), core.members.last(limit), 'LIMIT', 0, 1)[1]
    return member and string.sub(member, #limit + 2)
  end

  -- Is the line of another limit of a want still to be served, in which somebody stands who came before it? Then this
  -- limit's line is served again after that: by this script, or by the next ones. Return whether it is so.
  local function gives_way(record, order, limit)
    local now_or_later
    for _, claim in ipairs(record.c) do
      local other = claim[1]
      local serve_again = core.limits.is_touched(other) and core.limits.touch or core.limits.is_for_later(other) and core.limits.put_off
      if other ~= limit and serve_again then
        local first = first_in_turn(other)
        if first and first < order and now_or_later ~= core.limits.put_off then now_or_later = serve_again end
      end
    end
    if now_or_later then now_or_later(limit) end
    return now_or_later ~= nil
  end

  -- Give the limit's free units to the first in line whose session has room. Where they are not enough for that one, they
  -- are kept for it.
  local turns_left = core.limits.MAX_TURNS
  local function serve(limit)
    while true do
      local order = first_in_turn(limit)
      if not order then return end
      local id = core.lines.id_at(order)
      local record = core.wants.load(id)
      local is_enough = core.lines.has_free(limit, core.wants.weight_on(record, limit), order)
      if not is_enough and (core.rooms.of(core.members.owner(id)) > 0 or not core.lines.has_free(limit, 1, order)) then return end
      if turns_left <= 0 then
        core.limits.put_off(limit)
        return
      end
      turns_left = turns_left - 1
      if is_enough and gives_way(record, order, limit) then return end
      if is_enough then
        serve_one(id, record, order, limit)
      else
        core.rooms.offer(id, record) -- where it comes to have room, what becomes free is kept for it
        core.lines.set_aside(core.members.owner(id), limit .. core.members.US .. order)
      end
    end
  end

  -- What nobody waits for goes to hungry sessions, each unit to who has the fewest: it comes without a request, and with
  -- one of the app's limit, where there is one free, for that is needed as well.
  local LAST = '~' -- behind every arrival
  local function feed_one(limit, sid)
    local claims = { { limit, 1 } }
    if core.limits.max_of('app') and core.lines.has_free('app', 1, LAST) then table.insert(claims, { 'app', 1 }) end
    core.hungry.fed(sid, limit)
    give(sid, 0, claims, { '', '', '' })
  end
  local function feed(limit)
    local LOOKED_AT = 16 -- how many are looked at for one with room
    while core.limits.max_of(limit) and core.lines.has_free(limit, 1, LAST) do
      local found
      for _, one in ipairs(core.hungry.first(limit, LOOKED_AT)) do
        if core.rooms.of(one.sid) > 0 then
          found = one.sid
          break
        end
      end
      if not found then return end
      if turns_left <= 0 then
        core.limits.put_off(limit)
        return
      end
      turns_left = turns_left - 1
      feed_one(limit, found)
    end
  end

  local served = {}
  local function serve_all()
    for limit in core.limits.next_touched do
      serve(limit)
      served[#served + 1] = limit
    end
  end

  -- When all requests have had their turns.
  local function feed_all()
    for _, limit in ipairs(served) do feed(limit) end
    served = {}
  end

  -- The first of its limits in whose line others are still to be served.
  local function put_off_for(record)
    for _, claim in ipairs(record.c) do
      if core.limits.is_put_off(claim[1]) then return claim[1] end
    end
  end

  local function enter(id, record, limit)
    if not core.meta.heavy and core.wants.is_heavy(record) then
      core.meta.heavy = true
      call('HSET', key.meta, 'heavy', '1')
    end
    core.wants.enrol(id)
    core.lines.stand(id, record, limit)
  end

  -- A new want: its requests are granted at once where every limit has the units, else it stands in line.
  local function ask(id, record)
    if core.meta.served_to then -- others may wait in lines that are not served yet
      for _, claim in ipairs(record.c) do core.limits.touch(claim[1]) end
      serve_all()
    end
    repeat
      local full = put_off_for(record) or core.lines.blocking(record, core.members.order_key(id, record))
      if full then return enter(id, record, full) end
      if core.rooms.of(core.members.owner(id)) <= 0 then
        enter(id, record, record.c[1][1])
        return core.rooms.offer(id, record)
      end
      grant(id, record)
    until #record.r == 0
  end

  serving = { remove = remove, change = change, serve_all = serve_all, feed_all = feed_all, ask = ask }
end

return serving
end,

takers = function()

-- uses: input time members rooms
-- Which sessions take messages of which queue: those who have such messages and no room for them ask.
local takers
do
  local function member_of(source, queue, sid) return source .. core.members.US .. queue .. core.members.US .. sid end

  -- The queues that a session takes messages of.
  -- source: at which broker, for a queue of the same name at another one is another queue.
  local function set(sid, source, queues)
    local field = sid .. ':takes'
    local old = cjson.decode(call('HGET', key.session, field) or '[]')
    for _, queue in ipairs(old[2] or {}) do call('ZREM', key.takers, member_of(old[1], queue, sid)) end
    if #queues == 0 then
      call('HDEL', key.session, field)
      return
    end
    for _, queue in ipairs(queues) do call('ZADD', key.takers, 0, member_of(source, queue, sid)) end
    call('HSET', key.session, field, cjson.encode({ source, queues }))
  end

  -- Some of those who take a queue: of many, each time others.
  local function some_of(from, to)
    local LOOKED_AT = 16 -- how many are looked at for one with room
    local start = '[' .. from .. string.format('%02x', core.time.us % 256)
    local found = call('ZRANGEBYLEX', key.takers, start, to, 'LIMIT', 0, LOOKED_AT)
    if #found == LOOKED_AT then return found end
    for _, member in ipairs(call('ZRANGEBYLEX', key.takers, '[' .. from, '(' .. string.sub(start, 2), 'LIMIT', 0,
      LOOKED_AT - #found)) do
      table.insert(found, member)
    end
    return found
  end

  -- Does another session take the queue, and have room, or may grow?
  local function is_taken_elsewhere(source, queue)
    local from, to = member_of(source, queue, ''), '(' .. source .. core.members.US .. queue .. core.members.AFTER
    for _, member in ipairs(some_of(from, to)) do
      local sid = string.sub(member, #from + 1)
      local growth = tonumber(call('HGET', key.session, sid .. ':growth')) or 0
      if sid ~= core.input.me and core.rooms.of(sid) + growth > 0 then return true end
    end
    return false
  end

  takers = { set = set, is_taken_elsewhere = is_taken_elsewhere }
end

return takers
end,

apps = function()

-- uses: members
-- Of which apps and brokers sessions are, and of which of their queues.
--
-- APPS has one member for each session of an app at a broker, and one for each of its queues.
local apps
do
  local US = core.members.US
  local function word(it) return (string.gsub(tostring(it), '%c', ' ')) end

  local function by_app(info, sid) return table.concat({ 'app', word(info.app), word(info.broker), sid }, US) end
  local function by_queue(info, queue, sid)
    return table.concat({ 'queue', word(info.broker), word(queue), word(info.app), sid }, US)
  end
  local function each(sid, info, queues, visit)
    visit(by_app(info, sid))
    for _, queue in ipairs(queues) do visit(by_queue(info, queue, sid)) end
  end

  local function add(sid, info, queues)
    each(sid, info, queues, function(member) call('ZADD', key.apps, 0, member) end)
  end
  local function remove(sid)
    local info = call('HGET', key.session, sid .. ':info')
    if not info then return end
    local queues = cjson.decode(call('HGET', key.session, sid .. ':queues') or '[]')
    each(sid, cjson.decode(info), queues, function(member) call('ZREM', key.apps, member) end)
  end

  -- Does a session of that app, at that broker, take from one of the queues?
  local function share_queues(app, broker, queues)
    for _, queue in ipairs(queues) do
      local from = by_queue({ app = app, broker = broker }, queue, '')
      if #call('ZRANGEBYLEX', key.apps, '[' .. from, '(' .. string.sub(from, 1, -2) .. core.members.AFTER, 'LIMIT', 0, 1) > 0 then
        return true
      end
    end
    return false
  end

  -- A session of each other app or broker, none of whose sessions takes from a queue of this one at the same broker.
  local function others(info, queues)
    local MAX_FOUND, MAX_VISITED = 16, 64
    local found, after = {}, '[app' .. US
    for _ = 1, MAX_VISITED do
      local member = call('ZRANGEBYLEX', key.apps, after, '(app' .. core.members.AFTER, 'LIMIT', 0, 1)[1]
      if not member or #found == MAX_FOUND then break end
      local group, app, broker, sid = string.match(member, '^(app' .. US .. '(.-)' .. US .. '(.-))' .. US .. '(.*)$')
      after = '(' .. group .. core.members.AFTER
      local is_own = app == word(info.app) and broker == word(info.broker)
      local shares = not is_own and broker == word(info.broker) and share_queues(app, broker, queues)
      if not is_own and not shares then
        local theirs = cjson.decode(call('HGET', key.session, sid .. ':info') or '{}')
        table.insert(found, { app = theirs.app, node = theirs.node, broker = theirs.broker })
      end
    end
    return found
  end

  apps = { add = add, remove = remove, others = others }
end

return apps
end,

heartbeats = function()

-- uses: meta clock members
-- The heartbeat settings of live sessions: all intervals in order, then all timeouts.
local heartbeats
do
  local INTERVAL, TIMEOUT = 'interval\31', 'timeout\31'

  local function beat_of(kind, ms, sid) return string.format('%s%010.0f%s%s', kind, ms, core.members.US, sid) end
  local function ms_at(index)
    local found = call('ZRANGE', key.heartbeats, index, index)
    return found[1] and tonumber(string.match(found[1], core.members.US .. '(%d+)' .. core.members.US))
  end

  local function add(sid, interval, timeout)
    call('ZADD', key.heartbeats, 0, beat_of(INTERVAL, interval, sid), 0, beat_of(TIMEOUT, timeout, sid))
  end
  local function remove(sid, interval, timeout)
    call('ZREM', key.heartbeats, beat_of(INTERVAL, interval, sid), beat_of(TIMEOUT, timeout, sid))
  end

  -- The longest interval of a live session (ms).
  local function slowest() return ms_at(call('ZCARD', key.heartbeats) / 2 - 1) or core.meta.interval end

  -- The longest lease (ms) that a session may have: one that lives, or one that has lived before the epoch began and
  -- may not be known here; heard is of those. Sessions are told, and tell it where this is lost.
  local function longest_lease()
    if core.meta.epoch_began and core.clock.at < core.meta.epoch_began + core.meta.heard then return math.max(core.meta.longest, core.meta.heard) end
    return core.meta.longest
  end

  -- Sessions have begun or ended: the least interval holds back the lease clock. While none lives, the last one's does.
  local function changed()
    core.meta.interval, core.meta.longest = ms_at(0) or core.meta.interval, ms_at(-1) or core.meta.longest
    call('HSET', key.meta, 'interval', core.members.int(core.meta.interval), 'longest', core.members.int(core.meta.longest))
  end

  heartbeats = {
    INTERVAL = INTERVAL, TIMEOUT = TIMEOUT, add = add, remove = remove, slowest = slowest,
    longest_lease = longest_lease, changed = changed,
  }
end

return heartbeats
end,

parked = function()

-- uses: meta clock members sums
-- Parked: requests that a session holds behind those in line, as it told with its last heartbeats.
--
-- PARKED has how many they are under each limit, by session, and SUMS how many they are under it in all.
local parked
do
  local US = core.members.US

  -- Of a session, some of them where at_most is given; or of one of its limits (from: both, with US between).
  local function members_of(from, at_most)
    return call('ZRANGEBYLEX', key.parked, '[' .. from .. US, '(' .. from .. core.members.AFTER, 'LIMIT', 0, at_most or -1)
  end
  local function remove(sid, member)
    local limit, count = string.match(member, '^(.*)' .. US .. '(%d+)$', #sid + 2)
    call('ZREM', key.parked, member)
    core.sums.add(limit .. core.sums.PARKED, -tonumber(count))
  end

  -- So many are parked for each of some limits; for others as many as before.
  local function state(sid, counts)
    for limit, count in pairs(counts) do
      local from = sid .. US .. limit
      for _, member in ipairs(members_of(from)) do remove(sid, member) end
      if count > 0 then
        call('ZADD', key.parked, 0, from .. US .. core.members.int(count))
        core.sums.add(limit .. core.sums.PARKED, count)
      end
    end
  end

  -- Those of some limits no longer count. Return of how many.
  local function end_some(sid, at_most)
    local found = members_of(sid, at_most)
    for _, member in ipairs(found) do remove(sid, member) end
    return #found
  end

  -- So many messages of a queue wait at the broker, as a session that reads it message by message has just counted them.
  -- Several may say so of one queue: the last is right.
  local function state_at_broker(counts)
    for limit, count in pairs(counts) do
      if count > 0 then
        call('HSET', key.sums, limit .. core.sums.BROKER, core.members.int(count) .. ' ' .. core.members.int(core.clock.at))
      else
        call('HDEL', key.sums, limit .. core.sums.BROKER)
      end
    end
  end

  -- How many, by what SUMS has: nobody counts them any more where that is older than a lease.
  local function at_broker(text)
    local count, at = string.match(text or '', '^(%d+) (%d+)$')
    return count and core.clock.at - tonumber(at) <= core.meta.longest and tonumber(count) or 0
  end

  parked = { state = state, end_some = end_some, state_at_broker = state_at_broker, at_broker = at_broker }
end

return parked
end,

sessions = function()

-- uses: configs units hungry wants grants running rooms contention serving takers apps heartbeats parked
-- Sessions: who they are, and their end.
local sessions
do
  local FIELDS = {
    'info', 'config', 'interval', 'timeout', 'queues', 'room', 'granted', 'sync', 'offered', 'stall', 'growth', 'idle',
    'over', 'aside',
  }

  -- Nothing of it is heard any more, and it is given nothing. What it holds counts until it is taken away.
  local function silence(sid)
    core.takers.set(sid, '', {})
    core.apps.remove(sid)
    local beats = call('HMGET', key.session, sid .. ':interval', sid .. ':timeout')
    if beats[1] then core.heartbeats.remove(sid, beats[1], beats[2]) end
    local config = call('HGET', key.session, sid .. ':config')
    if config then core.configs.leave(config, sid) end
    core.rooms.set(sid, 0)
    local fields = {}
    for i, field in ipairs(FIELDS) do fields[i] = sid .. ':' .. field end
    call('HDEL', key.session, unpack(fields))
    call('ZREM', key.stated, sid)
    core.running.forget(sid)
    core.grants.forget_all(sid)
  end

  -- A session ends: what it holds and waits for goes. What is more than at_most of them is left for other scripts: its
  -- lease has ended, so they find it. (Its configuration, where no other session uses it, they find in UNUSED.)
  -- Return whether all is done, how many units were taken away, and how much work it was.
  local function finish(sid, at_most)
    silence(sid)
    local found, taken = core.units.limits_of(sid, at_most), 0
    for _, limit in ipairs(found) do
      taken = taken + core.units.of(sid, limit)
      core.units.set(sid, limit, 0)
    end
    local waiting = #found < at_most and core.wants.ids_of(sid, at_most - #found) or {}
    for _, id in ipairs(waiting) do core.serving.remove(id) end
    for _, limit in ipairs(core.hungry.limits_of(sid, math.max(at_most - #found - #waiting, 0))) do
      core.hungry.state(sid, limit, 0)
      core.contention.finish_if_empty(limit)
      table.insert(waiting, limit)
    end
    local work = #found + #waiting
    if work < at_most then work = work + core.parked.end_some(sid, at_most - work) end
    local is_done = work < at_most
    if is_done then call('ZREM', key.sessions, sid) end
    return is_done, taken, work
  end

  local ALL = 1e9 -- at most: what a worker may have
  -- Its lease ends at once.
  local CLOSED = -1
  local function close(sid) call('ZADD', key.sessions, 'XX', CLOSED, sid) end

  local nodes = {}
  local function node_of(sid)
    local node = nodes[sid]
    if not node then
      node = cjson.decode(call('HGET', key.session, sid .. ':info') or '{}').node or '?'
      nodes[sid] = node
    end
    return node
  end

  sessions = { ALL = ALL, CLOSED = CLOSED, close = close, finish = finish, node_of = node_of }
end

return sessions
end,

counters = function()

-- uses: nothing
-- What is counted, under each limit and for the whole namespace.
local counters
do
  -- For the whole namespace: one record, under no limit's name.
  local function add(counts)
    local totals = cjson.decode(call('HGET', key.totals, '') or '{}')
    for name, more in pairs(counts) do totals[name] = (totals[name] or 0) + more end
    call('HSET', key.totals, '', cjson.encode(totals))
  end

  -- What has ended in the last minute is counted in parts: their length (ms), and how many they are.
  counters = { SLOT = 5000, SLOTS = 12, add = add }
end

return counters
end,

epochs = function()

-- uses: meta server time clock members limits limit_table overrides configs unused sessions heartbeats counters
-- Epochs: lives of the data. And what every script does first.
local epochs
do
  local function shut_until(moment, is_new)
    if moment > (core.meta.closed_until or core.clock.at) then
      core.meta.closed_until = moment
      call('HSET', key.meta, 'closed_until', core.members.int(moment), 'lost', is_new and '0' or '1')
    end
  end

  -- Another life of the data: all of it was lost, or it went back in time (an old snapshot, a replica that lacked the
  -- last writes). What is here may be out of date, so every limit begins anew: it settles when each session that is
  -- known here has stated what it runs, or run out. For sessions that are not known, nothing is granted for `hold` ms:
  -- whoever lives says something within the longest interval, or, cut off, holds a lease that ends by the longest.
  -- Counters begin at 0, for those who read them take any step back for that.
  -- version_at_loss: of the limit table, where nothing was changed since; a session that knows a later one brings back
  -- what operators had set. Without it the first one does.
  local function begin_epoch(hold, is_new, version_at_loss)
    call('EXPIRE', key.totals, 0)
    core.meta.epoch = (core.server.id or '') .. ':' .. core.members.int(core.time.now * 1000 + core.time.us)
    core.meta.epoch_began = core.clock.at
    -- (A value of more than 64 bytes has Redis keep the hash as a table, not as a list: each script reads most of it.)
    call('HSET', key.meta, 'is_table', string.rep('-', 65), 'epoch', core.meta.epoch, 'server_id', core.server.id or '',
      'epoch_began', core.members.int(core.meta.epoch_began), 'overrides_version', core.members.int(version_at_loss or 0),
      'clock', core.members.int(core.clock.at), 'time', core.members.int(core.time.now))
    shut_until(core.clock.at + hold, is_new)
    core.limit_table.settle_all()
  end

  local function begin_after_loss(version_at_loss)
    local MARGIN = 500 -- ms after an interval within which every session that lives has said something
    begin_epoch(core.heartbeats.slowest() + MARGIN, false, version_at_loss)
  end

  -- The least that a session's lease lasts: a whole one from the beginning of the epoch. (Its lease here may be as old as
  -- the data were then, and it may have been told a later end before it was cut off.)
  local function least_end(sid)
    return (core.meta.epoch_began or 0) + (tonumber(call('HGET', key.session, sid .. ':timeout')) or 0)
  end

  -- How many units of sessions that end, and values of configurations that no session uses, this script may still take.
  local work_left = constant.WORK
  local function end_session(sid)
    local is_done, taken, work = core.sessions.finish(sid, math.max(work_left, 0))
    work_left = work_left - work
    return is_done, taken
  end

  -- The two sessions whose leases end first, and when: before this script changes them.
  local soonest
  local function end_first()
    soonest = soonest or call('ZRANGE', key.sessions, 0, 1, 'WITHSCORES')
    return soonest
  end

  local function end_dead_sessions()
    local first_end = end_first()[2]
    if not first_end or tonumber(first_end) > core.clock.at then return end
    soonest = nil
    local MAX_DUE, END = 32, 8 -- the end of a session is work itself
    local due = call('ZRANGEBYSCORE', key.sessions, '-inf', core.members.int(core.clock.at), 'WITHSCORES', 'LIMIT', 0, MAX_DUE)
    local reclaims = 0
    for i = 1, #due, 2 do
      local sid, least = due[i], least_end(due[i])
      if least > core.clock.at then
        call('ZADD', key.sessions, core.members.int(least), sid)
      elseif work_left > 0 then
        local _, taken = end_session(sid)
        work_left = work_left - END
        if tonumber(due[i + 1]) ~= core.sessions.CLOSED then reclaims = reclaims + taken end
      end
    end
    core.heartbeats.changed()
    if reclaims > 0 then core.counters.add({ reclaims = reclaims }) end
  end

  local function end_unused_configs()
    if core.unused.until_end() == 0 then work_left = work_left - core.configs.end_unused(work_left) end
  end

  local function begin()
    if not core.meta.epoch then return end
    core.clock.save()
    if core.server.id and core.server.id ~= core.meta.server_id then begin_after_loss(core.meta.version) end
    if core.meta.closed_until and core.clock.at >= core.meta.closed_until then
      core.meta.closed_until = nil
      call('HDEL', key.meta, 'closed_until', 'lost')
      core.meta.served_to = ''
    end
    if core.meta.served_to and not core.meta.closed_until then core.limits.serve_lines() end
    core.limits.take_up()
    end_dead_sessions()
    end_unused_configs()
    if core.meta.next_override_end and core.time.now >= core.meta.next_override_end then core.overrides.end_due() end
  end

  epochs = {
    shut_until = shut_until, begin_epoch = begin_epoch, begin_after_loss = begin_after_loss, begin = begin, end_first = end_first, end_session = end_session,
    end_unused_configs = end_unused_configs,
  }
end

return epochs
end,

news = function()

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
    local found = call('ZRANGEBYSCORE', key.versions, '(' .. core.members.int(version), '+inf', 'WITHSCORES', 'LIMIT', 0,
      constant.PIECE)
    local names = {}
    for i = 1, #found, 2 do names[#names + 1] = found[i] end
    local maxima, texts = core.members.fields(key.max, names), core.members.fields(key.overrides, names)
    local rows = {}
    for i, limit in ipairs(names) do
      rows[i] = {
        [LIMIT.limit] = limit, [LIMIT.max] = tonumber(maxima[i]) or -1, [LIMIT.override] = texts[i] or '',
      }
    end
    local is_all = #names < constant.PIECE
    return { before = version, version = is_all and core.meta.version or tonumber(found[#found]), at = core.time.now, rows = rows }
  end

  local function what_to_tell()
    local MS_EACH = 0.5 -- of the time over which sessions spread their syncs
    local notice = { version = core.meta.version, spread = math.ceil(call('ZCARD', key.sessions) * MS_EACH) }
    local changes = since(core.meta.told)
    if changes.version == core.meta.version then notice.changes = changes end
    return cjson.encode(notice)
  end

  -- Tell some of those who have not heard of the newest version. A newer one than they are just told of goes on with the
  -- next shard, and once round: so nobody is left out, however fast they follow each other.
  local function tell()
    if core.meta.version ~= core.meta.version_before then core.meta.untold = constant.SHARDS end
    local text, reached = what_to_tell(), 0
    while core.meta.untold > 0 and reached < constant.RECEIVERS do
      reached = reached + call('PUBLISH', ARGV[1] .. 'table:' .. core.meta.shard, text)
      core.meta.shard, core.meta.untold = (core.meta.shard + 1) % constant.SHARDS, core.meta.untold - 1
    end
    if core.meta.untold == 0 then core.meta.told = core.meta.version end
    call('HSET', key.meta, 'told', core.members.int(core.meta.told), 'shard', core.meta.shard, 'untold', core.meta.untold)
  end

  -- Every live session knows that these are gone: nobody needs to be told any more.
  local function forget_gone()
    local least = core.limits.least_stated() or '+inf'
    for _, limit in ipairs(call('ZRANGEBYSCORE', key.gone, '-inf', least, 'LIMIT', 0, constant.WORK)) do
      call('ZREM', key.gone, limit)
      call('ZREM', key.versions, limit)
    end
  end

  news = {
    since = since, tell = tell, forget_gone = forget_gone, are_some_untold = function() return core.meta.untold > 0 end,
  }
end

return news
end,

reply = function()

-- uses: input meta limits grants serving contention notices news
-- What every script does last: serve what was touched, and tell the other sessions.
local reply
do
  local function finish()
    core.limits.open_settled()
    if core.limits.are_some_touched() then core.serving.serve_all() end
    if core.limits.were_some_touched() then core.serving.feed_all() end
    if core.meta.fence ~= core.meta.fence_before then core.grants.save_fence() end
    local has_changed = core.meta.version ~= core.meta.version_before
    if has_changed or core.meta.untold > 0 then core.news.tell() end
    if has_changed or core.limits.were_some_gone() then core.news.forget_gone() end
    for sid, notice in pairs(core.notices.all) do
      if sid ~= core.input.me then
        if #notice.grants == 0 then notice.grants = nil end
        notice.recall, notice.shares = core.contention.recall(notice.limits, sid)
        notice.limits = nil
        call('PUBLISH', ARGV[1] .. sid, cjson.encode(notice))
      end
    end
  end

  reply = { finish = finish }
end

return reply
end,

  }
  setmetatable(core, {
    __index = function(self, name)
      local part = makers[name]()
      self[name] = part
      return part
    end,
  })
end

-- uses: input meta configs epochs reply
-- Take a piece of a configuration that a session is to open with, where this Redis doesn't have it whole.
--
-- Guarantee: what is taken counts at once; for as long as a lease of the sender's, unless a session opens with it. Several
--         may send the same one at once, and a piece may come twice.
-- ARGV[2] digest (of all of it), values (limit -> max, at most PIECE of its limits), timeout (ms; a lease of the sender's)
-- Reply   {status: "ok", whole (whether this Redis has all of it now)}
--         {status: "closed"}: all data was lost; open first
-- Cost    O(limits in the piece)
local asked = core.input.asked
local function piece(it) return core.input.configuration(it) and core.input.is_piece(it) end
core.input.expect({ digest = core.input.digest, values = piece, timeout = core.input.milliseconds })
core.epochs.begin()
if not core.meta.epoch then return cjson.encode({ status = 'closed' }) end
core.configs.take(asked.digest, asked.values, asked.timeout)
core.reply.finish()
return cjson.encode({ status = 'ok', whole = core.configs.is_whole(asked.digest) })
