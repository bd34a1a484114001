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

pages = function()

-- uses: input
-- Pages: scripts for people reply with a part, and with `next`, where to go on; who asks hands it back as `after`.
--
-- What it says is theirs alone. The first page has none to go on from, the last one has no next.
local pages
do
  -- How many limits, sessions or requests a page has, about: each takes some ten steps.
  local SIZE = math.ceil(constant.LOOKS / 8)
  -- How many characters of JSON a page reads, about, that others wrote: a worker may run, or be configured with, thousands.
  local TEXT = constant.LOOKS * 250

  local after = core.input.asked.after
  if after == cjson.null then after = nil end
  local function may_be_after(it) return it == cjson.null or type(it) == 'string' and #it <= 8192 end

  -- Where a scan goes on; scanned: what Redis replied.
  local function cursor(text) return text == nil or string.find(text, '^%d+$') ~= nil and #text < 20 end

  pages = { SIZE = SIZE, TEXT = TEXT, after = after, may_be_after = may_be_after, cursor = cursor }
end

return pages
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

  }
  setmetatable(core, {
    __index = function(self, name)
      local part = makers[name]()
      self[name] = part
      return part
    end,
  })
end

-- uses: input pages time members
-- doesn't begin: it reads what sessions told, whether they live or not
-- Tasks that have ended under a limit lately, as sessions told with their heartbeats.
--
-- Guarantee: none; a sample. Each part stands for as many tasks as it says.
-- ARGV[2] limit, span (ms); after (null, or next of the page before)
-- Reply   {status: "ok", parts: [{at (wall time, ms), ended, samples [[ms since its end, ms waited, ms held]...]}...],
--          next}
-- Cost    O(LOOKS)
local asked = core.input.asked
local FETCHED = 10 -- entries at a time
local function is_after(it)
  return core.pages.may_be_after(it) and (core.pages.after == nil or string.find(core.pages.after, '^%d+%-%d+$') ~= nil and #core.pages.after < 40)
end
core.input.expect({ limit = core.input.limit_name, span = core.input.count, after = is_after })
local parts, seen, text = {}, 0, 0
local named = cjson.encode(asked.limit) .. ':' -- how it is written there
local next_at = core.pages.after

local function read(entry)
  local told = entry[2][2]
  next_at, seen, text = entry[1], seen + 1, text + #told / 10 -- (to look for a name in it costs little)
  if not string.find(told, named, 1, true) then return end
  text = text + #told
  local part = cjson.decode(told)[asked.limit]
  if not part then return end
  part.at = tonumber(string.match(entry[1], '^%d+'))
  table.insert(parts, part)
end

local from = core.pages.after and '(' .. core.pages.after or core.members.int(math.max(core.time.now - asked.span, 0))
repeat
  local fetched = call('XRANGE', key.recent, from, '+', 'COUNT', FETCHED)
  for _, entry in ipairs(fetched) do read(entry) end
  if #fetched < FETCHED then next_at = nil else from = '(' .. next_at end
until not next_at or text > core.pages.TEXT / 20 or seen >= constant.LOOKS
return cjson.encode({ status = 'ok', parts = parts, next = next_at })
