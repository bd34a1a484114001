local call = redis.call
local key = {
  meta = KEYS[1],
  sessions = KEYS[2],
  session = KEYS[3],
  stated = KEYS[4],
  heartbeats = KEYS[5],
  requests = KEYS[6],
  roll = KEYS[7],
  holders = KEYS[8],
  waiters = KEYS[9],
  turns = KEYS[10],
  aside = KEYS[11],
  reserved = KEYS[12],
  max = KEYS[13],
  configured = KEYS[14],
  overrides = KEYS[15],
  settling = KEYS[16],
  contended = KEYS[17],
  changes = KEYS[18],
  changed = KEYS[19],
  totals = KEYS[20],
  recent = KEYS[21],
  takers = KEYS[22],
  apps = KEYS[23],
}
local constant = {
  KEYS = 23,
  TURNS = 3,
  WORK = 250,
  MAX = 2147483648,
  MAX_TIMEOUT = 300000,
  LAST_RETRY = 1500,
}
local HELD = { number = 1, claims = 2, task_id = 3, task = 4, idle = 5, fence = 6, age = 7 }
local ASK = { number = 1, claims = 2, age = 3, task_id = 4, task = 5 }
local GRANT = { grant = 1, number = 2, fence = 3, at = 4 }

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

  local function whole(it, least, greatest)
    return type(it) == 'number' and it % 1 == 0 and it >= least and it <= greatest
  end
  local function short(it) return type(it) == 'string' and #it <= 4096 end
  local function flag(it) return it == true or it == false end
  local function count(it) return whole(it, 0, 9e15) end
  local function integer(it) return whole(it, -9e15, 9e15) end
  local function grant_number(it) return whole(it, 1, 999999999999) end -- sorted by its twelve digits
  local function version_number(it) return whole(it, 0, 9e13) end      -- JSON carries fourteen digits
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
  local function configured_max(it) return whole(it, 0, constant.MAX) end
  local function configuration(it) return by_limit(it, configured_max) end

  -- A claim is [limit, weight]; no weight but 1 is counted yet.
  local function claims(it)
    if type(it) ~= 'table' or not it[1] then return false end
    for i = 1, #it do
      local claim = it[i]
      if type(claim) ~= 'table' or #claim ~= 2 or claim[2] ~= 1
        or not (good_names[claim[1]] or limit_name(claim[1])) then
        return false
      end
    end
    return true
  end

  -- Rows that have a number, claims, a task's id and name; `rest` looks at what else is in them.
  local function rows(list, at, rest)
    if type(list) ~= 'table' or (#list == 0 and next(list) ~= nil) then return false end
    local numbers = {}
    for i = 1, #list do
      local row = list[i]
      if type(row) ~= 'table' then return false end
      local number, id, name = row[at.number], row[at.task_id], row[at.task]
      if numbers[number or 0] then return false end
      numbers[number or 0] = true
      if type(number) ~= 'number' or number % 1 ~= 0 or number < 1 or number > 9e15 or type(id) ~= 'string'
        or type(name) ~= 'string' or #id > 4096 or #name > 4096 or not claims(row[at.claims]) or not rest(row) then
        return false
      end
    end
    return true
  end
  local function is_holding(row)
    return (row[HELD.idle] == 0 or row[HELD.idle] == 1) and count(row[HELD.fence]) and count(row[HELD.age])
  end
  local function holdings(it) return rows(it, HELD, is_holding) end
  local function has_age(row) return whole(row[ASK.age], -1e18, 1e18) end
  local function asks(it) return rows(it, ASK, has_age) end

  local function expect(kinds)
    for field, kind in pairs(kinds) do
      if not kind(asked[field]) then error('celery-gconc: not what this script takes as ' .. field) end
    end
  end

  input = {
    asked = asked, me = asked.session, expect = expect, whole = whole, short = short, flag = flag, count = count,
    integer = integer, grant_number = grant_number, version_number = version_number, session_id = session_id, every = every,
    limit_name = limit_name, by_limit = by_limit, configuration = configuration, holdings = holdings, asks = asks,
  }
end

-- uses: nothing
-- How the members of the sorted sets are written. In sets ordered by name, what begins alike stands together.
local members
do
  local US = '\31'    -- between a limit's name and the rest of a member; names have no control characters
  local AFTER = '\32' -- the byte after it: the end of a limit's range
  local WAITING = '000000000000' -- in place of the grant number of a request that waits

  local function int(number) return string.format('%.0f', number) end

  -- The range of a limit's members.
  local function first(limit) return '[' .. limit .. US end
  local function last(limit) return '(' .. limit .. AFTER end

  -- The session that a request, or a waiter's member, is of.
  local function owner(id) return string.match(id, '^([^:]*):') end
  local function owner_of_waiter(member) return owner(string.match(member, US .. '%d+' .. US .. '(.*)$')) end

  local function roll_member(id, grant)
    local sid, number = string.match(id, '^([^:]*):(.*)$')
    return string.format('%s:%012.0f:%s', sid, grant, number)
  end
  local function roll_of(sid) return '[' .. sid .. ':', '(' .. sid .. ';' end
  local function waiting_roll_of(sid)
    return '[' .. sid .. ':' .. WAITING .. ':', '(' .. sid .. ':' .. WAITING .. ';'
  end
  local function roll_since(sid, grant) return string.format('[%s:%012.0f:', sid, grant), '(' .. sid .. ';' end
  local function read_roll(member) return string.match(member, ':(%d+):(.*)$') end

  -- Where a waiter stands in a line: its arrival, and its id among those that came at once.
  local function order_key(id, record) return record.a .. US .. id end

  members = {
    US = US, AFTER = AFTER, int = int, first = first, last = last, owner = owner, owner_of_waiter = owner_of_waiter,
    roll_member = roll_member, roll_of = roll_of, waiting_roll_of = waiting_roll_of, roll_since = roll_since,
    read_roll = read_roll, order_key = order_key,
  }
end

-- uses: nothing
-- The scalars of the namespace, read once. Whoever changes one here writes it to the hash too.
local meta
do
  local found = call('HMGET', key.meta, 'clock', 'time', 'held', 'interval', 'longest', 'version', 'epoch',
    'server_id', 'epoch_began', 'heard', 'closed_until', 'fence', 'next_override_end', 'served_to')
  meta = {
    clock = tonumber(found[1]),              -- the lease clock (ms)
    time = tonumber(found[2]),               -- its last step (wall time, ms)
    held = tonumber(found[3]),               -- its last step that was held back (wall time, ms)
    interval = tonumber(found[4]) or 0,      -- the least of a live session (ms); while none lives, that of the last
    longest = tonumber(found[5]) or 0,       -- the longest lease of a live session (ms); likewise
    version = tonumber(found[6]) or 0,       -- of the limit table
    epoch = found[7] or nil,
    server_id = found[8],                    -- of the server that the epoch began on
    epoch_began = tonumber(found[9]),        -- (lease clock, ms)
    heard = tonumber(found[10]) or 0,        -- the longest lease of before the epoch (ms)
    closed_until = tonumber(found[11]),      -- no grants until then: unknown sessions may live (lease clock, ms)
    fence = tonumber(found[12]) or 0,        -- the last fencing number
    next_override_end = tonumber(found[13]), -- when what operators set for a time may next expire (wall time, ms)
    served_to = found[14] or nil,            -- the last limit whose line was served since grants go on; nil: all were
    fence_before = found[12],
  }
end

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
  -- Of the lines behind that of a limit, in order of name, some are touched; return the last of them, nil at the end.
  local function touch_lines_after(limit)
    for _ = 1, constant.WORK do
      local member = call('ZRANGEBYLEX', key.waiters, members.last(limit), '+', 'LIMIT', 0, 1)[1]
      if not member then return nil end
      limit = string.match(member, '^([^' .. members.US .. ']*)')
      touch(limit)
    end
    return limit
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

  -- SETTLING has limits by the version of the table with which they began.
  local some_settle = call('EXISTS', key.settling) == 1
  local settling = {} -- as far as it was looked at
  local function is_settling(limit)
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

  -- Limits that began while tasks ran open once every live session has stated what it runs under them: some in each
  -- script, the others stay as they are until the next.
  local function open_settled()
    if not some_settle then return end
    local least = call('ZRANGE', key.stated, 0, 0, 'WITHSCORES')[2] or '+inf'
    for _, limit in ipairs(call('ZRANGEBYSCORE', key.settling, '-inf', least, 'LIMIT', 0, constant.WORK)) do
      has_settled(limit)
      touch(limit)
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
  local function configured(limit)
    local least = call('ZRANGEBYLEX', key.configured, members.first(limit), members.last(limit), 'LIMIT', 0, 1)[1]
    return least and tonumber(string.match(least, '^%d+', #limit + 2))
  end

  local function all()
    local found = call('HGETALL', key.max)
    local table_ = {}
    for i = 1, #found, 2 do table_[found[i]] = tonumber(found[i + 1]) end
    return table_
  end

  limits = {
    touch = touch, touch_lines_after = touch_lines_after, next_touched = next_touched, max_of = max_of,
    is_settling = is_settling, settle_all = settle_all, open_settled = open_settled, new_version = new_version,
    hold_to = hold_to, configured = configured, all = all,
    has_changed = function() return has_changed end,
  }
end

-- uses: meta members
-- The heartbeat settings of live sessions: all intervals in order, then all timeouts.
local heartbeats
do
  local INTERVAL, TIMEOUT = 'interval\31', 'timeout\31'

  local function beat_of(kind, ms, sid) return string.format('%s%010.0f%s%s', kind, ms, members.US, sid) end
  local function ms_at(index)
    local found = call('ZRANGE', key.heartbeats, index, index)
    return found[1] and tonumber(string.match(found[1], members.US .. '(%d+)' .. members.US))
  end

  local function add(sid, interval, timeout)
    call('ZADD', key.heartbeats, 0, beat_of(INTERVAL, interval, sid), 0, beat_of(TIMEOUT, timeout, sid))
  end
  local function remove(sid, interval, timeout)
    call('ZREM', key.heartbeats, beat_of(INTERVAL, interval, sid), beat_of(TIMEOUT, timeout, sid))
  end

  -- The longest interval of a live session (ms).
  local function slowest() return ms_at(call('ZCARD', key.heartbeats) / 2 - 1) or meta.interval end

  -- Sessions have begun or ended: the least interval holds back the lease clock. While none lives, the last one's does.
  local function changed()
    meta.interval, meta.longest = ms_at(0) or meta.interval, ms_at(-1) or meta.longest
    call('HSET', key.meta, 'interval', members.int(meta.interval), 'longest', members.int(meta.longest))
  end

  heartbeats = {
    INTERVAL = INTERVAL, TIMEOUT = TIMEOUT, add = add, remove = remove, slowest = slowest, changed = changed,
  }
end

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

-- uses: time meta members
-- The lease clock (ms): wall time as Redis has it, but it stands still while nobody calls, and never goes back.
--
-- One step is at most the least interval of a live session, for each trusts its lease to its end less an interval of
-- its own.
local clock
do
  local step = math.max(time.now - (meta.time or time.now), 0)
  local is_held = step > meta.interval * 1.02 -- it goes slower than the time, as nobody has called in between
  local at = (meta.clock or time.now) + math.min(step, meta.interval)

  local function save()
    if is_held then
      call('HSET', key.meta, 'clock', members.int(at), 'time', members.int(time.now), 'held', members.int(time.now))
    else
      call('HSET', key.meta, 'clock', members.int(at), 'time', members.int(time.now))
    end
  end

  -- age: us since a request reached its gate, by its worker's clock; so it stands where it belongs however late we hear.
  local function arrival_of(age)
    local arrival = members.int(math.max(at * 1000 + time.us - math.max(age, 0), 0))
    return string.rep('0', 16 - #arrival) .. arrival
  end

  clock = { at = at, is_held = is_held, save = save, arrival_of = arrival_of }
end

-- uses: meta time members limits
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

  -- The value that holds for a limit, from its override and the configured one.
  local function refresh(limit)
    local override, value = of(limit), nil
    if override.pause then
      value = 0
    elseif not override.max then
      value = limits.configured(limit)
    elseif override.max >= 0 then
      value = override.max
    end
    limits.hold_to(limit, value)
  end

  local function end_of(mark) return mark and mark.ends or math.huge end

  -- What an operator has set for a limit: its max, a pause, both, or nothing any more.
  local function set(limit, override)
    if not override.max and not override.pause then
      call('HDEL', key.overrides, limit)
    else
      call('HSET', key.overrides, limit, cjson.encode(override))
      local first_end = math.min(end_of(override.set), end_of(override.pause))
      if first_end < (meta.next_override_end or math.huge) then
        meta.next_override_end = first_end
        call('HSET', key.meta, 'next_override_end', members.int(first_end))
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
    if not meta.next_override_end or time.now < meta.next_override_end then return end
    meta.next_override_end = nil
    call('HDEL', key.meta, 'next_override_end')
    for limit, text in pairs(all()) do
      local override = cjson.decode(text)
      if end_of(override.set) <= time.now then override.max, override.set = nil, nil end
      if end_of(override.pause) <= time.now then override.pause = nil end
      set(limit, override)
    end
  end

  overrides = {
    of = of, set = set, all = all, end_due = end_due, refresh = refresh,
  }
end

-- uses: members overrides
-- What live sessions are configured with: the least value for a limit counts.
--
-- CONFIGURED has each value twice: under its limit, least first, and under its session.
local configs
do
  local US = members.US

  local function of_limit(limit, max, sid) return limit .. US .. max .. US .. sid end
  local function of_session(limit, max, sid) return US .. sid .. US .. limit .. US .. max end
  local function range_of(sid) return '[' .. US .. sid .. US, '(' .. US .. sid .. members.AFTER end
  local function read(member, sid)
    return string.match(string.sub(member, #sid + 3), '^([^' .. US .. ']*)' .. US .. '(%d+)$')
  end

  -- The two least values for a limit, each with its session.
  local function least_two(limit)
    local found = call('ZRANGEBYLEX', key.configured, members.first(limit), members.last(limit), 'LIMIT', 0, 2)
    for i, member in ipairs(found) do found[i] = string.sub(member, #limit + 2) end
    return found[1], found[2]
  end

  -- Add or remove many members in few calls, then let the limits go by what is least now.
  local function apply(command, arguments, changed)
    local MAX_ARGUMENTS = 1000
    for first = 1, #arguments, MAX_ARGUMENTS do
      local last = math.min(first + MAX_ARGUMENTS - 1, #arguments)
      call(command, key.configured, unpack(arguments, first, last))
    end
    for _, limit in ipairs(changed) do overrides.refresh(limit) end
  end

  local function begin(sid, config)
    local arguments, changed = {}, {}
    for limit, max in pairs(config) do
      local least, text = least_two(limit), string.format('%010.0f', max)
      for _, member in ipairs({ of_limit(limit, text, sid), of_session(limit, text, sid) }) do
        table.insert(arguments, 0)
        table.insert(arguments, member)
      end
      if not least or text < string.sub(least, 1, 10) then table.insert(changed, limit) end
    end
    apply('ZADD', arguments, changed)
  end

  -- Some of a session's values no longer count. Return how many.
  local function end_some(sid, at_most)
    local from, to = range_of(sid)
    local found = call('ZRANGEBYLEX', key.configured, from, to, 'LIMIT', 0, at_most)
    local arguments, changed = {}, {}
    for _, member in ipairs(found) do
      local limit, max = read(member, sid)
      table.insert(arguments, member)
      table.insert(arguments, of_limit(limit, max, sid))
      local least, next_least = least_two(limit)
      if least == max .. US .. sid and string.sub(next_least or '', 1, 10) ~= max then table.insert(changed, limit) end
    end
    apply('ZREM', arguments, changed)
    return #found
  end

  configs = { begin = begin, end_some = end_some }
end

-- uses: meta time clock members
-- Requests for permits, and the permits that were granted: one record each, in REQUESTS.
--
-- A record's fields are
--   c   its claims, [[limit, weight]...]; a permit is all of them at once
--   g   the number of its grant in its session; 0 while it waits
--   t   task id                        n   task name
--   f   fencing number (0: it was never granted; its task ran before the limit began)
--   s   since when its task has it (wall time, ms)
--   i   1 while no task has it (idle)
-- and of a waiter
--   a   arrival at its gate (lease clock, us, sixteen digits): where it stands in a line
--   w   arrival of the task that it stands for now, where that is another than the one it came for
--   at  the limit in whose line it stands
--   k   how often it missed its turn, as another of its limits was full
--   o   1 once its turn came while its session had no room
-- A waiter becomes a holder when it is granted; what a session states to run is a holder at once.
local permits
do
  local function load(id)
    local text = call('HGET', key.requests, id)
    return text and cjson.decode(text) or nil
  end
  local function save(id, record) call('HSET', key.requests, id, cjson.encode(record)) end

  local function held(limit) return call('ZLEXCOUNT', key.holders, members.first(limit), members.last(limit)) end

  -- The fencing number last given, in steps of 100 us of Redis' clock: it only grows, and is never behind that clock
  -- when a permit is granted, so it goes on growing where it was lost with the rest of the data.
  local function next_fence()
    meta.fence = math.max(meta.fence + 1, math.floor(time.now * 10 + time.us / 100))
    return meta.fence
  end
  local function save_fence()
    local fence = members.int(meta.fence)
    if fence ~= meta.fence_before and meta.fence > 0 then call('HSET', key.meta, 'fence', fence) end
  end

  local function hold(id, record, grant, since)
    record.g = grant
    record.s = since
    save(id, record)
    call('ZADD', key.roll, 0, members.roll_member(id, grant))
    for _, claim in ipairs(record.c) do call('ZADD', key.holders, 0, claim[1] .. members.US .. id) end
  end

  -- What a session states to run counts whether there is a permit for it or not.
  local function adopt(sid, row, grant)
    meta.fence = math.max(meta.fence, row[HELD.fence])
    local record = {
      c = row[HELD.claims], a = string.rep('0', 16), k = 0, t = row[HELD.task_id], n = row[HELD.task],
      i = row[HELD.idle], f = row[HELD.fence],
    }
    hold(sid .. ':' .. members.int(row[HELD.number]), record, grant, time.now - row[HELD.age])
  end

  -- A grant, as its session is told of it.
  local function grant_row(grant, number, record)
    return { [GRANT.grant] = grant, [GRANT.number] = number, [GRANT.fence] = record.f, [GRANT.at] = record.s }
  end

  -- Are these the same claims, in the same order?
  local function are_same(some, others)
    if #some ~= #others then return false end
    for i = 1, #some do
      if some[i][1] ~= others[i][1] or some[i][2] ~= others[i][2] then return false end
    end
    return true
  end

  -- For how long the task of a waiter has waited (ms).
  local function waited(record) return math.max(clock.at - tonumber(record.w or record.a) / 1000, 0) end

  permits = {
    load = load, save = save, held = held, next_fence = next_fence, save_fence = save_fence, hold = hold,
    adopt = adopt, are_same = are_same, grant_row = grant_row, waited = waited,
  }
end

-- uses: nothing
-- What other sessions are to hear when the script is done.
local notices
do
  local all = {} -- by session

  -- The notice to a session: grants, limits (whose contention it is told), offer.
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

-- uses: input members limits permits notices
-- Room: how many more a session could start, as it stated, less the grants since.
local rooms
do
  local known = {}
  local is_offered = false -- whether a turn came of the session that calls, which has no room
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

  local function each_waiter(sid, visit)
    local from, to = members.waiting_roll_of(sid)
    for _, member in ipairs(call('ZRANGEBYLEX', key.roll, from, to)) do
      local record = permits.load(sid .. ':' .. string.sub(member, #from))
      if record then visit(record) end
    end
  end

  local function touch_reserved(record)
    if record.k >= constant.TURNS then
      for _, claim in ipairs(record.c) do limits.touch(claim[1]) end
    end
  end

  -- A session without room has nothing held back for it: what it had reserved is free for others meanwhile.
  local function set(sid, left)
    local before = of(sid)
    known[sid] = left
    call('HSET', key.session, sid .. ':room', members.int(left))
    if left <= 0 and before > 0 and call('EXISTS', key.reserved) == 1 then each_waiter(sid, touch_reserved) end
  end

  local function touch_line(record)
    if record.at then limits.touch(record.at) end
  end

  -- Lines of a session's waiters, to be served now that it has room.
  local function touch_lines_of(sid) each_waiter(sid, touch_line) end

  -- A waiter's turn came, but its session has no room: it keeps its position in line, and its session is told, once.
  local function offer(id, record)
    if not record.o then
      record.o = 1
      permits.save(id, record)
    end
    local sid = members.owner(id)
    if sid == input.me then is_offered = true end
    if call('HGET', key.session, sid .. ':offered') == '1' then return end
    call('HSET', key.session, sid .. ':offered', '1')
    if sid ~= input.me then notices.to(sid).offer = true end
  end

  rooms = {
    of = of, know = know, set = set, touch_lines_of = touch_lines_of, offer = offer,
    is_offered = function() return is_offered end,
  }
end

-- uses: input members limits permits notices
-- Who waits for a limit while others could use its permits again.
--
-- CONTENDED has the one session that waits, or * for several; it may be behind, and says then that more wait than do.
local contention
do
  -- Somebody of session sid waits for the limit: recall idle and reused permits of every other session.
  local function begin(limit, sid)
    local flag = call('HGET', key.contended, limit)
    if flag == '*' or flag == sid then return end
    call('HSET', key.contended, limit, flag and '*' or sid)
    local told = {}
    for _, member in ipairs(call('ZRANGEBYLEX', key.holders, members.first(limit), members.last(limit))) do
      local holder = members.owner(string.sub(member, #limit + 2))
      if not told[holder] and holder ~= input.me and (flag or holder ~= sid) then
        told[holder] = true
        notices.to(holder).limits[limit] = true
      end
    end
  end

  -- Nobody waits for it any more.
  local function finish_if_empty(limit)
    local first, last = members.first(limit), members.last(limit)
    if #call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, 1) == 0
      and #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) == 0 then
      call('HDEL', key.contended, limit)
    end
  end

  -- Must this session give permits of the limit back rather than use them again? (Yes when in doubt.) And how many
  -- of its own requests are at the head of the line: for those it may use a permit again all the same.
  local function between(limit, sid)
    local SCAN = 64 -- how many waiters are looked at to see whether only one session waits
    local max = limits.max_of(limit)
    if max and permits.held(limit) > max then return true, 0 end
    local flag = call('HGET', key.contended, limit)
    if not flag or flag == sid then return false, 0 end
    local first, last = members.first(limit), members.last(limit)
    if #call('ZRANGEBYLEX', key.reserved, first, last, 'LIMIT', 0, 1) > 0 then return true, 0 end
    local line = call('ZRANGEBYLEX', key.waiters, first, last, 'LIMIT', 0, SCAN)
    local streak = 0
    for _, member in ipairs(line) do
      if members.owner_of_waiter(member) ~= sid then return true, streak end
      streak = streak + 1
    end
    if #line == SCAN then return true, streak end
    if #line == 0 then call('HDEL', key.contended, limit) else call('HSET', key.contended, limit, sid) end
    return false, 0
  end

  -- What a session is told of limits: those that others wait for, each with its own streak at the head of the line.
  local function recall(names, sid)
    local found = nil
    for limit in pairs(names) do
      local is_contended, streak = between(limit, sid)
      if is_contended then
        found = found or {}
        found[limit] = streak
      end
    end
    return found
  end

  contention = { begin = begin, finish_if_empty = finish_if_empty, recall = recall }
end

-- uses: meta members limits permits rooms contention
-- Lines: where requests wait, and for whom permits are held back.
--
-- TURNS has the waiters of each line whose turn may come, ASIDE the others, by session: they were offered a permit, had
-- no room for it, and have not been heard of since. So nobody walks past them at each permit that becomes free.
-- A waiter stands in the line of one full limit at a time. After TURNS missed turns a permit is held back for it in each
-- of its limits: RESERVED has it then, ordered as WAITERS. Of each limit one is held back at a time, for the first whose
-- session has room: were it one for each of them, those that wait for a full limit would empty the others, too. The
-- first of all is the first in each of its limits, so its turn comes, and then that of the next.
local lines
do
  -- Has the limit a permit for a request that stands at this order key (arrival members.US id)?
  local function has_free(limit, order)
    local max = limits.max_of(limit)
    if not max then return true end
    if meta.closed_until or limits.is_settling(limit) then return false end
    local taken = permits.held(limit)
    if taken >= max then return false end
    if taken < max - 1 then return true end
    local before = '(' .. limit .. members.US .. order
    for _, member in ipairs(call('ZRANGEBYLEX', key.reserved, members.first(limit), before)) do
      if rooms.of(members.owner_of_waiter(member)) > 0 then return false end
    end
    return true
  end

  -- The first of its other limits that has no permit for the request.
  local function blocking(record, order, but)
    for _, claim in ipairs(record.c) do
      local limit = claim[1]
      if limit ~= but and not has_free(limit, order) then return limit end
    end
  end

  local function stand(id, record, limit)
    record.at = limit
    permits.save(id, record)
    local member = limit .. members.US .. members.order_key(id, record)
    call('ZADD', key.waiters, 0, member)
    call('ZADD', key.turns, 0, member)
    contention.begin(limit, members.owner(id))
  end

  -- It was offered a permit, and its session has no room: its turn doesn't come again until that says something.
  local function set_aside(sid, member)
    call('ZREM', key.turns, member)
    call('ZADD', key.aside, 0, sid .. members.US .. member)
  end

  -- What was set aside of a session gets its turns again.
  local function bring_back(sid)
    local found = call('ZRANGEBYLEX', key.aside, members.first(sid), members.last(sid))
    for _, member in ipairs(found) do
      call('ZADD', key.turns, 0, string.sub(member, #sid + 2))
      call('ZREM', key.aside, member)
    end
  end

  local function leave(id, record)
    local limit = record.at
    local member = limit .. members.US .. members.order_key(id, record)
    call('ZREM', key.waiters, member)
    if call('ZREM', key.turns, member) == 0 then call('ZREM', key.aside, members.owner(id) .. members.US .. member) end
    record.at = nil
    contention.finish_if_empty(limit)
  end

  local function reserve(id, record)
    for _, claim in ipairs(record.c) do
      local limit = claim[1]
      call('ZADD', key.reserved, 0, limit .. members.US .. members.order_key(id, record))
      contention.begin(limit, members.owner(id))
    end
  end

  local function unreserve(id, record)
    if record.k < constant.TURNS then return end
    for _, claim in ipairs(record.c) do
      local limit = claim[1]
      call('ZREM', key.reserved, limit .. members.US .. members.order_key(id, record))
      contention.finish_if_empty(limit)
      limits.touch(limit)
    end
  end

  lines = {
    has_free = has_free, blocking = blocking, stand = stand, leave = leave, set_aside = set_aside,
    bring_back = bring_back, reserve = reserve, unreserve = unreserve,
  }
end

-- uses: input meta time clock members limits permits rooms lines notices
-- The rules by which permits are given.
--
-- Guarantee: after each script, no waiter whose session has room stands in line while all of its limits have a
-- permit for it; and no limit has more holders than its max but those that a statement of holdings added.
--
-- Cost    O(log N) for each permit given or freed, N = holders + waiters of all limits; O(1) otherwise
local serving
do
  local function grant(id, record)
    local sid = members.owner(id)
    local number = call('HINCRBY', key.session, sid .. ':granted', 1)
    rooms.set(sid, rooms.of(sid) - 1)
    if record.at then lines.leave(id, record) end
    lines.unreserve(id, record)
    call('ZREM', key.roll, members.roll_member(id, 0))
    record.o = nil
    record.f = permits.next_fence()
    permits.hold(id, record, number, time.now)
    if sid ~= input.me then
      local notice = notices.to(sid)
      table.insert(notice.grants, permits.grant_row(number, tonumber(string.match(id, ':(.*)$')), record))
      for _, claim in ipairs(record.c) do notice.limits[claim[1]] = true end
    end
  end

  -- End a request, waiting or granted, and free what it took.
  local function remove(id)
    local record = permits.load(id)
    if not record then return end
    if record.g == 0 then
      lines.leave(id, record)
      lines.unreserve(id, record)
    else
      for _, claim in ipairs(record.c) do
        local limit = claim[1]
        call('ZREM', key.holders, limit .. members.US .. id)
        limits.touch(limit)
      end
    end
    call('ZREM', key.roll, members.roll_member(id, record.g))
    call('HDEL', key.requests, id)
  end

  -- Its turn came, but another of its limits is full: it stands in that one's line, with its old arrival.
  -- After TURNS such misses a permit is held back for it in each of its limits. Only those that arrived later
  -- are held up by that, so two such waiters can't wait for each other.
  local function miss_turn(id, record, full)
    lines.leave(id, record)
    record.k = record.k + 1
    if record.k == constant.TURNS then lines.reserve(id, record) end
    lines.stand(id, record, full)
  end

  local function serve_one(id, order, limit)
    local record = permits.load(id)
    local full = lines.blocking(record, order, limit)
    if rooms.of(members.owner(id)) <= 0 then
      if full then
        lines.leave(id, record)
        lines.stand(id, record, full)
      else
        rooms.offer(id, record)
        lines.set_aside(members.owner(id), limit .. members.US .. order)
      end
    elseif full then
      miss_turn(id, record, full)
    else
      grant(id, record)
    end
  end

  -- Give the limit's free permits to the first in line whose session has room.
  local function serve(limit)
    local from = members.first(limit)
    while true do
      local line = call('ZRANGEBYLEX', key.turns, from, members.last(limit), 'LIMIT', 0, 16)
      if #line == 0 then return end
      for _, member in ipairs(line) do
        from = '(' .. member
        local order = string.sub(member, #limit + 2)
        if not lines.has_free(limit, order) then return end
        serve_one(string.match(order, members.US .. '(.*)$'), order, limit)
      end
    end
  end

  local function serve_all()
    for limit in limits.next_touched do serve(limit) end
  end

  -- A request for a permit: granted at once where every limit has one, else it stands in line.
  local function ask(id, row)
    local record = {
      c = row[ASK.claims], a = clock.arrival_of(row[ASK.age]), g = 0, k = 0, t = row[ASK.task_id], n = row[ASK.task],
    }
    if meta.served_to then -- others may wait in lines that are not served yet
      for _, claim in ipairs(record.c) do limits.touch(claim[1]) end
      serve_all()
    end
    call('ZADD', key.roll, 0, members.roll_member(id, 0))
    local full = lines.blocking(record, members.order_key(id, record))
    if full then
      lines.stand(id, record, full)
    elseif rooms.of(members.owner(id)) > 0 then
      grant(id, record)
    else
      lines.stand(id, record, record.c[1][1])
      rooms.offer(id, record)
    end
  end

  serving = { remove = remove, serve_all = serve_all, ask = ask }
end

-- uses: input time members rooms
-- Which sessions take messages of which queue: those who have such messages and no room for them ask.
local takers
do
  local function member_of(source, queue, sid) return source .. members.US .. queue .. members.US .. sid end

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
    local start = '[' .. from .. string.format('%02x', time.us % 256)
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
    local from, to = member_of(source, queue, ''), '(' .. source .. members.US .. queue .. members.AFTER
    for _, member in ipairs(some_of(from, to)) do
      local sid = string.sub(member, #from + 1)
      local growth = tonumber(call('HGET', key.session, sid .. ':growth')) or 0
      if sid ~= input.me and rooms.of(sid) + growth > 0 then return true end
    end
    return false
  end

  takers = { set = set, is_taken_elsewhere = is_taken_elsewhere }
end

-- uses: members
-- Of which apps and brokers sessions are, and of which of their queues.
--
-- APPS has one member for each session of an app at a broker, and one for each of its queues.
local apps
do
  local US = members.US
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
      if #call('ZRANGEBYLEX', key.apps, '[' .. from, '(' .. string.sub(from, 1, -2) .. members.AFTER, 'LIMIT', 0, 1) > 0 then
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
      local member = call('ZRANGEBYLEX', key.apps, after, '(app' .. members.AFTER, 'LIMIT', 0, 1)[1]
      if not member or #found == MAX_FOUND then break end
      local group, app, broker, sid = string.match(member, '^(app' .. US .. '(.-)' .. US .. '(.-))' .. US .. '(.*)$')
      after = '(' .. group .. members.AFTER
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

-- uses: members configs rooms serving takers apps heartbeats
-- Sessions: who they are, and their end.
local sessions
do
  local FIELDS = {
    'info', 'config', 'interval', 'timeout', 'queues', 'room', 'granted', 'sync', 'offered', 'parked', 'stall',
    'growth',
  }

  -- Nothing of it is heard any more, and it is given nothing. What it holds counts until it is taken away.
  local function silence(sid)
    takers.set(sid, '', {})
    apps.remove(sid)
    local beats = call('HMGET', key.session, sid .. ':interval', sid .. ':timeout')
    if beats[1] then heartbeats.remove(sid, beats[1], beats[2]) end
    rooms.set(sid, 0)
    local fields = {}
    for i, field in ipairs(FIELDS) do fields[i] = sid .. ':' .. field end
    call('HDEL', key.session, unpack(fields))
    call('ZREM', key.stated, sid)
  end

  -- A session ends: what it holds and waits for goes, and its configured values no longer count. What is more than
  -- at_most of them is left for other scripts: its lease has ended, so they find it.
  -- Return whether all is done, how many permits were taken away, and how much work it was.
  local function finish(sid, at_most)
    silence(sid)
    local from, to = members.roll_of(sid)
    local found, taken = call('ZRANGEBYLEX', key.roll, from, to, 'LIMIT', 0, at_most), 0
    for _, member in ipairs(found) do
      local grant, number = members.read_roll(member)
      if tonumber(grant) > 0 then taken = taken + 1 end
      serving.remove(sid .. ':' .. number)
    end
    local work = #found
    if work < at_most then work = work + configs.end_some(sid, at_most - work) end
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

-- uses: meta time clock members limits overrides sessions heartbeats counters
-- Epochs: lives of the data. And what every script does first.
local epochs
do

  -- The server, by the id of its process; nil where our user may not ask.
  local info = redis.pcall('INFO', 'server')
  local server = string.match(type(info) == 'string' and info or '', 'run_id:(%w+)')

  -- The longest lease (ms) that a session may have: one that lives, or one that has lived before the epoch began and
  -- may not be known here; heard is of those. Sessions are told, and tell it where this is lost.
  local function longest()
    if meta.epoch_began and clock.at < meta.epoch_began + meta.heard then return math.max(meta.longest, meta.heard) end
    return meta.longest
  end

  local function shut_until(moment, is_new)
    if moment > (meta.closed_until or clock.at) then
      meta.closed_until = moment
      call('HSET', key.meta, 'closed_until', members.int(moment), 'lost', is_new and '0' or '1')
    end
  end

  -- Another life of the data: all of it was lost, or it went back in time (an old snapshot, a replica that lacked the
  -- last writes). What is here may be out of date, so every limit begins anew: it settles when each session that is
  -- known here has stated what it runs, or run out. For sessions that are not known, nothing is granted for `hold` ms:
  -- whoever lives says something within the longest interval, or, cut off, holds a lease that ends by the longest.
  -- Counters begin at 0, for those who read them take any step back for that.
  local function begin_epoch(hold, is_new)
    call('EXPIRE', key.totals, 0)
    meta.epoch = (server or '') .. ':' .. members.int(time.now * 1000 + time.us)
    meta.epoch_began = clock.at
    call('HSET', key.meta, 'epoch', meta.epoch, 'server_id', server or '',
      'epoch_began', members.int(meta.epoch_began), 'overrides_version', members.int(meta.version),
      'clock', members.int(clock.at), 'time', members.int(time.now))
    shut_until(clock.at + hold, is_new)
    limits.settle_all()
  end

  local function begin_after_loss()
    local MARGIN = 500 -- ms after an interval within which every session that lives has said something
    begin_epoch(heartbeats.slowest() + MARGIN)
  end

  -- The least that a session's lease lasts: a whole one from the beginning of the epoch. (Its lease here may be as old as
  -- the data were then, and it may have been told a later end before it was cut off.)
  local function least_end(sid)
    return (meta.epoch_began or 0) + (tonumber(call('HGET', key.session, sid .. ':timeout')) or 0)
  end

  -- How many permits and configured values this script may still take from sessions that end.
  local work_left = constant.WORK
  local function end_session(sid)
    local is_done, taken, work = sessions.finish(sid, math.max(work_left, 0))
    work_left = work_left - work
    return is_done, taken
  end

  local function end_dead_sessions()
    local MAX_DUE, END = 32, 4 -- the end of a session is work itself
    local due = call('ZRANGEBYSCORE', key.sessions, '-inf', members.int(clock.at), 'WITHSCORES', 'LIMIT', 0, MAX_DUE)
    local reclaims = 0
    for i = 1, #due, 2 do
      local sid, least = due[i], least_end(due[i])
      if least > clock.at then
        call('ZADD', key.sessions, members.int(least), sid)
      elseif work_left > 0 then
        local _, taken = end_session(sid)
        work_left = work_left - END
        if tonumber(due[i + 1]) ~= sessions.CLOSED then reclaims = reclaims + taken end
      end
    end
    if #due > 0 then heartbeats.changed() end
    if reclaims > 0 then counters.add({ reclaims = reclaims }) end
  end

  -- Grants go on: some of the lines are served in each script, in order of name.
  local function serve_lines()
    meta.served_to = limits.touch_lines_after(meta.served_to)
    if meta.served_to then
      call('HSET', key.meta, 'served_to', meta.served_to)
    else
      call('HDEL', key.meta, 'served_to')
    end
  end

  local function begin()
    if not meta.epoch then return end
    clock.save()
    if server and server ~= meta.server_id then begin_after_loss() end
    if meta.closed_until and clock.at >= meta.closed_until then
      meta.closed_until = nil
      call('HDEL', key.meta, 'closed_until', 'lost')
      meta.served_to = ''
    end
    if meta.served_to and not meta.closed_until then serve_lines() end
    end_dead_sessions()
    overrides.end_due()
  end

  epochs = {
    server = server, longest = longest, shut_until = shut_until, begin_epoch = begin_epoch,
    begin_after_loss = begin_after_loss, begin = begin, end_session = end_session,
  }
end

-- uses: meta limits permits serving contention notices
-- What every script does last: serve what was touched, and tell the other sessions.
local reply
do
  local function finish()
    limits.open_settled()
    serving.serve_all()
    permits.save_fence()
    if limits.has_changed() then
      call('PUBLISH', ARGV[1] .. 'table', cjson.encode({ version = meta.version })) -- to all sessions
    end
    for sid, notice in pairs(notices.all) do
      if #notice.grants == 0 then notice.grants = nil end
      notice.recall = contention.recall(notice.limits, sid)
      notice.limits = nil
      call('PUBLISH', ARGV[1] .. sid, cjson.encode(notice))
    end
  end

  reply = { finish = finish }
end

-- uses: input members limits heartbeats epochs reply
-- What doesn't fit together in the keys: no script of ours leaves any of it. With repair, take it away.
--
-- Guarantee: one instant. A repair removes requests and permits of sessions that don't live, and permits that no request
--         has; whoever waited for them is granted before the reply. What fits together is not touched.
-- ARGV[2] repair (boolean)
-- Reply   {status: "ok", findings: [{kind, member}...]} (kinds: "session", "request", "roll", "holder", "waiter",
--         "reserved", "taker", "heartbeat")
-- Cost    O(holders + waiters)
local asked, US = input.asked, members.US
local SESSION = key.session
input.expect({ repair = input.flag })
epochs.begin()
local findings = {}
local function found(kind, member) table.insert(findings, { kind = kind, member = member }) end
local function lives(sid) return sid and call('ZSCORE', key.sessions, sid) end

local known = {} -- by id
local dead, requests = {}, call('HGETALL', key.requests)
for i = 1, #requests, 2 do
  local id = requests[i]
  local readable, record = pcall(cjson.decode, requests[i + 1])
  local sid = members.owner(id)
  if not readable or type(record) ~= 'table' or type(record.c) ~= 'table' or type(record.g) ~= 'number'
    or not lives(sid) or not call('ZSCORE', key.roll, members.roll_member(id, record.g)) then
    found('request', id)
    table.insert(dead, id)
  else
    known[id] = record
  end
end

local function look(kind, set, is_right)
  for _, member in ipairs(call('ZRANGE', set, 0, -1)) do
    if not is_right(member) then
      found(kind, member)
      if asked.repair then
        call('ZREM', set, member)
        local limit = string.match(member, '^([^' .. US .. ']*)' .. US)
        if limit then limits.touch(limit) end
      end
    end
  end
end
local function covers(record, limit)
  for _, claim in ipairs(record.c) do
    local name = claim[1]
    if name == limit then return true end
  end
  return false
end
for _, id in ipairs(dead) do
  if asked.repair then call('HDEL', key.requests, id) end
end
look('roll', key.roll, function(member)
  local sid, granted_as, number = string.match(member, '^([^:]*):(%d+):(.*)$')
  local record = sid and known[sid .. ':' .. number]
  return record and record.g == tonumber(granted_as)
end)
look('holder', key.holders, function(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g > 0 and covers(record, limit)
end)
local function waits(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '%d+' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g == 0 and record.at == limit
end
look('waiter', key.waiters, waits)
look('waiter', key.turns, waits)
look('waiter', key.aside, function(member) return waits(string.match(member, US .. '(.*)$')) end)
look('reserved', key.reserved, function(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '%d+' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g == 0 and record.k >= constant.TURNS and covers(record, limit)
end)
look('taker', key.takers, function(member) return lives(string.match(member, US .. '([^' .. US .. ']*)$')) end)
look('heartbeat', key.heartbeats, function(member)
  local kind, ms, sid = string.match(member, '^(%a+' .. US .. ')(%d+)' .. US .. '(.*)$')
  local field = kind == heartbeats.INTERVAL and ':interval' or ':timeout'
  return lives(sid) and tonumber(ms) == tonumber(call('HGET', SESSION, sid .. field))
end)
local seen, fields = {}, call('HKEYS', SESSION)
for _, field in ipairs(fields) do
  local sid = members.owner(field)
  if not lives(sid) then
    if not seen[sid or field] then found('session', sid or field) end
    seen[sid or field] = true
    if asked.repair then call('HDEL', SESSION, field) end
  end
end
if asked.repair then heartbeats.changed() end
reply.finish()
return cjson.encode({ status = 'ok', findings = findings })
