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

  }
  setmetatable(core, {
    __index = function(self, name)
      local part = makers[name]()
      self[name] = part
      return part
    end,
  })
end

-- uses: input meta server time clock members units grants running rooms heartbeats
-- A session lives on, and all that it has told still holds, but for what it says here. It is cheap, for most
-- heartbeats are such: a statement (sync.lua) is made where anything else is to be said or done, and once a minute.
--
-- Guarantee: it goes on from the last sync that was answered, or changes nothing at all. So where it is answered "ok", Redis
-- has just what the session has told, in that sync and before, and has granted nothing since.
-- doesn't begin: where a script has anything to begin with, this one leaves it to the statement
-- ARGV[2] session, epoch, sync, confirmed, granted, room, version, growth as in sync.lua;
--         running and idle as there, where they have changed: idle is whole, and {} where no unit is idle any more
-- Reply   {status: "ok", lease, longest as in sync.lua}
--         {status: "more"}: nothing was changed; make a statement
-- Cost    O(log(sessions)); with what is contended anywhere, O(units)
local int, asked, me = core.members.int, core.input.asked, core.input.me
local whole = core.input.whole
if not (type(me) == 'string' and type(asked.epoch) == 'string' and whole(asked.sync, 0, 9e15)
  and whole(asked.confirmed, 0, 9e15) and core.input.grant_number(asked.granted) and whole(asked.room, -9e15, 9e15)
  and whole(asked.version, -1, 9e15) and (asked.growth == nil or core.input.count(asked.growth))
  and (asked.running == nil or type(asked.running) == 'string')
  and (asked.idle == nil or core.input.by_limit(asked.idle, core.input.count))) then
  error('celery-gconc: not what this script takes')
end

-- Is there something that other scripts do before or after their own work? Then this session is not all there is to it.
local function is_anything_due()
  if core.meta.epoch ~= asked.epoch or core.meta.closed_until or core.meta.served_to or core.meta.all_settle or core.meta.untold > 0
    or core.meta.version ~= asked.version or core.meta.next_override_end and core.time.now >= core.meta.next_override_end
    or core.meta.over_until and core.clock.at < core.meta.over_until or core.server.id and core.server.id ~= core.meta.server_id
    or call('EXISTS', key.todo, key.settling, key.gone, key.unused) > 0 then
    return true
  end
  local first = call('ZRANGE', key.sessions, 0, 0, 'WITHSCORES')
  return not first[2] or tonumber(first[2]) <= core.clock.at
end

-- Does anybody else wait for what it has units of?
local function is_recalled()
  if call('EXISTS', key.contended) == 0 then return false end
  for _, flag in ipairs(core.members.fields(key.contended, core.units.limits_of(me))) do
    if flag and flag ~= me then return true end
  end
  return false
end

local known = call('HMGET', key.session, me .. ':sync', me .. ':granted', me .. ':room', me .. ':timeout', me .. ':offered',
  me .. ':aside')
local function has_told_all()
  return tonumber(known[1]) == asked.confirmed and asked.sync > asked.confirmed and tonumber(known[2]) == asked.granted
    and not known[5] and not known[6]
end

if is_anything_due() or not has_told_all() or is_recalled() then return cjson.encode({ status = 'more' }) end
core.clock.save()
local lease = core.clock.at + tonumber(known[4])
call('ZADD', key.sessions, int(lease), me)
call('HSET', key.session, me .. ':sync', asked.sync)
if asked.room ~= tonumber(known[3]) then core.rooms.set(me, asked.room) end
if asked.growth then call('HSET', key.session, me .. ':growth', int(asked.growth)) end
if asked.running then
  core.running.state(me, asked.running)
  core.grants.forget_to(me, asked.granted)
end
if asked.idle then
  core.units.state_idle(me, asked.idle)
  if next(asked.idle) then call('HSET', key.session, me .. ':idle', '1') else call('HDEL', key.session, me .. ':idle') end
end
return cjson.encode({ status = 'ok', lease = lease, longest = core.heartbeats.longest_lease() })
