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

  }
  setmetatable(core, {
    __index = function(self, name)
      local part = makers[name]()
      self[name] = part
      return part
    end,
  })
end

-- uses: input
-- doesn't begin: a number is all that it reads or writes
-- Take the number by which a change that is announced now takes its turn among all changes.
--
-- Guarantee: every ticket is above all those before it.
-- ARGV[2] {}
-- Reply   {status: "ok", ticket}
-- Cost    O(1)
core.input.expect({})
return cjson.encode({ status = 'ok', ticket = call('HINCRBY', key.meta, 'ticket', 1) })
