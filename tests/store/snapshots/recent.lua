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
-- Redis' wall time.
local time
do
  local parts = call('TIME')
  time = {
    now = parts[1] * 1000 + math.floor(parts[2] / 1000), -- ms
    us = parts[2] % 1000,                                -- since then
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

-- uses: input time members
-- doesn't begin: it reads what sessions told, whether they live or not
-- Tasks that have ended under a limit lately, as sessions told with their heartbeats.
--
-- Guarantee: none; a sample. Each part stands for as many tasks as it says.
-- ARGV[2] limit, span (ms)
-- Reply   {status: "ok", parts: [{at (wall time, ms), ended, samples [[ms since its end, ms waited, ms held]...]}...]}
-- Cost    O(heartbeats of that time in which tasks ended)
local asked = input.asked
input.expect({ limit = input.limit_name, span = input.count })
local parts = {}
for _, entry in ipairs(call('XRANGE', key.recent, members.int(math.max(time.now - asked.span, 0)), '+')) do
  local part = cjson.decode(entry[2][2])[asked.limit]
  if part then
    part.at = tonumber(string.match(entry[1], '^%d+'))
    table.insert(parts, part)
  end
end
return cjson.encode({ status = 'ok', parts = parts })
