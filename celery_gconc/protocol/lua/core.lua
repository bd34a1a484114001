-- What every script begins with: the keys, the lease clock, and the rules by which places are given.
-- The store puts this file before each of the others; it replies nothing by itself.
--
-- Guarantee: after each script, no waiter whose session has room stands in line while all of its limits have a
-- place for it; and no limit has more holders than its max but those that a statement of holdings added.
--
-- KEYS    the keyspace, in the order of keys.py
-- ARGV[1] channel prefix of notices
-- ARGV[2] JSON, what the script is asked to do
-- Reply   JSON, each script its own
-- Cost    O(log N) for each place given or freed, N = holders + waiters of all limits; O(1) otherwise
local META, SESSIONS, SESSION, HEARTBEATS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local REQUESTS, ROLL, HOLDERS, WAITERS, RESERVED = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local MAX, CONFIGURED, OVERRIDES = KEYS[10], KEYS[11], KEYS[12]
local FRESH, CONTENDED, CHANGES, CHANGED = KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local TOTALS, RECENT, TAKERS = KEYS[17], KEYS[18], KEYS[19]
local CHANNEL = ARGV[1]
if #KEYS ~= 19 or #ARGV ~= 2 or CHANNEL == '' then error('celery-gconc: not the keys and arguments of this script') end
local asked = cjson.decode(ARGV[2])
local call = redis.call

local US = '\31'      -- between a limit's name and the rest of a member; names have no control characters
local US_AFTER = '\32' -- the byte after it: the end of a limit's range
local TURNS = 3       -- how often a waiter may miss its turn before places are held back for it
local MARGIN = 500    -- ms after an interval within which every session that lives has said something
local SCAN = 64       -- how many waiters are looked at to see whether only one session waits
local LOOKED_AT = 16  -- how many of the sessions that take a queue are looked at for one with room

local function int(number) return string.format('%.0f', number) end

-- The lease clock (ms): wall time as Redis has it, but it stands still while nobody calls, and never goes back. One step
-- is at most the least interval of a live session, for each trusts its lease to its end less an interval of its own.
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local meta = call('HMGET', META, 'clock', 'time', 'interval', 'version', 'epoch', 'shut', 'run', 'born', 'fence', 'ends',
  'longest', 'heard', 'held')
local clock = tonumber(meta[1]) or now
local interval = tonumber(meta[3]) or 0
local step = math.max(now - (tonumber(meta[2]) or now), 0)
local is_held = step > interval * 1.02 -- the clock goes slower than the time, as nobody has called in between
clock = clock + math.min(step, interval)
local version = tonumber(meta[4]) or 0
local epoch = meta[5] or nil
local shut = tonumber(meta[6]) -- until then (lease clock, ms) nothing is granted: sessions may live that are not known
local born = tonumber(meta[8]) -- when the epoch began (lease clock, ms): leases given before end by then + heard
local ends = tonumber(meta[10]) -- when the next of what operators set for a time may end (wall time, ms)

-- The longest lease (ms) that a session may have: one that lives, or one that has lived before the epoch began and may
-- not be known here; heard is of those. Sessions are told, and tell it where this is lost.
local heard = tonumber(meta[12]) or 0
local longest_alive = tonumber(meta[11]) or 0
local function longest()
  if born and clock < born + heard then return math.max(longest_alive, heard) end
  return longest_alive
end

-- The server, by the id of its process; nil where our user may not ask.
local server = redis.pcall('INFO', 'server')
server = type(server) == 'string' and server or ''
local run = string.match(server, 'run_id:(%w+)')

-- The fencing number last given, in steps of 100 us of Redis' clock: it only grows, and is never behind that clock
-- when a permit is granted, so it goes on growing where it was lost with the rest of the data.
local fence, fence_before = tonumber(meta[9]) or 0, meta[9]
local function next_fence()
  fence = math.max(fence + 1, math.floor(now * 10 + time[2] % 1000 / 100))
  return fence
end

-- What each field may be. A script says first what it takes, by `expect`: whatever else comes is an error, and nothing
-- has been written yet (Redis does not take back what a script wrote before it failed).
local function whole(it, least, most)
  return type(it) == 'number' and it % 1 == 0 and it >= least and it <= most
end
local function short(it) return type(it) == 'string' and #it <= 4096 end
local function flag(it) return it == true or it == false end
local function count(it) return whole(it, 0, 9e15) end
local function integer(it) return whole(it, -9e15, 9e15) end
local function grant_number(it) return whole(it, 1, 999999999999) end -- sorted by its twelve digits
local function version_number(it) return whole(it, 0, 9e13) end      -- JSON carries fourteen digits
local function session_id(it) return type(it) == 'string' and #it <= 64 and string.find(it, '^[%w_.-]+$') ~= nil end
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
local function configured_max(it) return whole(it, 0, 2 ^ 31) end
local function configuration(it) return by_limit(it, configured_max) end
-- Rows of a number, the limits (at `at`), task id and task name; what else is in them `rest` looks at.
local function rows(list, at, rest)
  if type(list) ~= 'table' or (#list == 0 and next(list) ~= nil) then return false end
  for i = 1, #list do
    local row = list[i]
    if type(row) ~= 'table' then return false end
    local number, limits, id, name = row[1], row[at], row[at + 1], row[at + 2]
    if type(number) ~= 'number' or number % 1 ~= 0 or number < 1 or number > 9e15 or type(limits) ~= 'table'
      or type(id) ~= 'string' or type(name) ~= 'string' or #id > 4096 or #name > 4096 or not limits[1]
      or not rest(row) then return false end
    for j = 1, #limits do
      if not good_names[limits[j]] and not limit_name(limits[j]) then return false end
    end
  end
  return true
end
local function is_idle_fence_and_age(row) return (row[5] == 0 or row[5] == 1) and count(row[6]) and count(row[7]) end
local function is_age(row) return whole(row[2], -1e18, 1e18) end
local function holdings(it) return rows(it, 2, is_idle_fence_and_age) end
local function asks(it) return rows(it, 3, is_age) end
local function expect(kinds)
  for field, kind in pairs(kinds) do
    if not kind(asked[field]) then error('celery-gconc: not what this script takes as ' .. field) end
  end
end

local me = asked.session -- the session that calls, if one does
local notices = {}       -- session -> what it is to be told when the script is done
local table_changed = false

local function notice(sid)
  local told = notices[sid]
  if not told then
    told = { grants = {}, limits = {} }
    notices[sid] = told
  end
  return told
end

-- Sessions: room is what is left of what the session stated, less the grants since.
local rooms = {}
local function room(sid)
  local left = rooms[sid]
  if left == nil then
    left = tonumber(call('HGET', SESSION, sid .. ':room')) or 0
    rooms[sid] = left
  end
  return left
end


local function owner(id) return string.match(id, '^([^:]*):') end
local function owner_of_place(member) return owner(string.match(member, US .. '%d+' .. US .. '(.*)$')) end

-- Requests: a record is a waiter while its grant number g is 0, then a holder.
local function load(id)
  local text = call('HGET', REQUESTS, id)
  return text and cjson.decode(text) or nil
end

local function save(id, record) call('HSET', REQUESTS, id, cjson.encode(record)) end

-- Limits: the work list of those in which a place may have come free.
local queue, queued = {}, {}
local function touch(limit)
  if not queued[limit] then
    queued[limit] = true
    queue[#queue + 1] = limit
  end
end

local maxima = {}
local function max_of(limit) -- false = unlimited
  local max = maxima[limit]
  if max == nil then
    max = tonumber(call('HGET', MAX, limit)) or false
    maxima[limit] = max
  end
  return max
end

local fresh = {}
do
  local pairs_ = call('HGETALL', FRESH)
  for i = 1, #pairs_, 2 do fresh[pairs_[i]] = tonumber(pairs_[i + 1]) end
end

local function first(limit) return '[' .. limit .. US end
local function last(limit) return '(' .. limit .. US_AFTER end
local function held(limit) return call('ZLEXCOUNT', HOLDERS, first(limit), last(limit)) end

-- Is there a place in the limit for a request that stands at this place (arrival US id) of its order?
local function has_place(limit, place)
  local max = max_of(limit)
  if not max then return true end
  if shut then return false end
  if fresh[limit] then return false end
  local count = held(limit)
  if count >= max then return false end
  for _, member in ipairs(call('ZRANGEBYLEX', RESERVED, first(limit), '(' .. limit .. US .. place)) do
    if room(owner_of_place(member)) > 0 then count = count + 1 end
    if count >= max then return false end
  end
  return true
end

-- A session without room has nothing held back for it: what it had reserved is free for others meanwhile.
local function set_room(sid, left)
  local before = room(sid)
  rooms[sid] = left
  call('HSET', SESSION, sid .. ':room', int(left))
  if left > 0 or before <= 0 or call('EXISTS', RESERVED) == 0 then return end
  local from = sid .. ':' .. string.rep('0', 12) .. ':'
  for _, member in ipairs(call('ZRANGEBYLEX', ROLL, '[' .. from, '(' .. sid .. ':' .. string.rep('0', 12) .. ';')) do
    local record = load(sid .. ':' .. string.sub(member, #from + 1))
    if record and record.k >= TURNS then
      for _, limit in ipairs(record.l) do touch(limit) end
    end
  end
end

local function is_line_empty(limit)
  return #call('ZRANGEBYLEX', WAITERS, first(limit), last(limit), 'LIMIT', 0, 1) == 0
    and #call('ZRANGEBYLEX', RESERVED, first(limit), last(limit), 'LIMIT', 0, 1) == 0
end

-- Somebody of session sid waits for the limit: recall idle and reused permits of every other session.
local function contend(limit, sid)
  local flag = call('HGET', CONTENDED, limit)
  if flag == '*' or flag == sid then return end
  call('HSET', CONTENDED, limit, flag and '*' or sid)
  local told = {}
  for _, member in ipairs(call('ZRANGEBYLEX', HOLDERS, first(limit), last(limit))) do
    local holder = owner(string.sub(member, #limit + 2))
    if not told[holder] and holder ~= me and (flag or holder ~= sid) then
      told[holder] = true
      notice(holder).limits[limit] = true
    end
  end
end

-- Must this session give permits of the limit back rather than use them again? (Yes when in doubt.) And how many
-- of its own requests are at the head of the line: for those it may use a permit again all the same.
local function contention(limit, sid)
  local max = max_of(limit)
  if max and held(limit) > max then return true, 0 end
  local flag = call('HGET', CONTENDED, limit)
  if not flag or flag == sid then return false, 0 end
  if #call('ZRANGEBYLEX', RESERVED, first(limit), last(limit), 'LIMIT', 0, 1) > 0 then return true, 0 end
  local line = call('ZRANGEBYLEX', WAITERS, first(limit), last(limit), 'LIMIT', 0, SCAN)
  local streak = 0
  for _, member in ipairs(line) do
    if owner_of_place(member) ~= sid then return true, streak end
    streak = streak + 1
  end
  if #line == SCAN then return true, streak end
  if #line == 0 then call('HDEL', CONTENDED, limit) else call('HSET', CONTENDED, limit, sid) end
  return false, 0
end

local function roll_member(id, grant)
  local sid, number = string.match(id, '^([^:]*):(.*)$')
  return string.format('%s:%012.0f:%s', sid, grant, number)
end

local function place_of(id, record) return record.a .. US .. id end

local function stand(id, record, limit)
  record.at = limit
  save(id, record)
  call('ZADD', WAITERS, 0, limit .. US .. place_of(id, record))
  contend(limit, owner(id))
end

local function unreserve(id, record)
  if record.k < TURNS then return end
  for _, limit in ipairs(record.l) do
    call('ZREM', RESERVED, limit .. US .. place_of(id, record))
    if is_line_empty(limit) then call('HDEL', CONTENDED, limit) end
    touch(limit)
  end
end

local function leave_line(id, record)
  local limit = record.at
  call('ZREM', WAITERS, limit .. US .. place_of(id, record))
  record.at = nil
  if is_line_empty(limit) then call('HDEL', CONTENDED, limit) end
end

local function hold(id, record, grant, since)
  record.g = grant
  record.s = since
  save(id, record)
  call('ZADD', ROLL, 0, roll_member(id, grant))
  for _, limit in ipairs(record.l) do call('ZADD', HOLDERS, 0, limit .. US .. id) end
end

-- What a session states to run counts whether there is a place for it or not.
-- item: [number, [limits], task id, task name, idle (0 or 1), fencing number (0: it was never granted), ms for which its
-- task has had it]
local function adopt(item, grant)
  local id = me .. ':' .. int(item[1])
  fence = math.max(fence, item[6])
  local record = { l = item[2], a = string.rep('0', 16), k = 0, t = item[3], n = item[4], i = item[5], f = item[6] }
  hold(id, record, grant, now - item[7])
end

local function grant(id, record)
  local sid = owner(id)
  local number = call('HINCRBY', SESSION, sid .. ':granted', 1)
  set_room(sid, room(sid) - 1)
  if record.at then leave_line(id, record) end
  unreserve(id, record)
  call('ZREM', ROLL, roll_member(id, 0))
  record.o = nil
  record.f = next_fence()
  hold(id, record, number, now)
  if sid ~= me then
    local told = notice(sid)
    table.insert(told.grants, { number, tonumber(string.match(id, ':(.*)$')), record.f, now })
    for _, limit in ipairs(record.l) do told.limits[limit] = true end
  end
end

-- End a request, waiting or granted, and free what it took.
local function remove(id)
  local record = load(id)
  if not record then return end
  if record.g == 0 then
    leave_line(id, record)
    unreserve(id, record)
  else
    for _, limit in ipairs(record.l) do
      call('ZREM', HOLDERS, limit .. US .. id)
      touch(limit)
    end
  end
  call('ZREM', ROLL, roll_member(id, record.g))
  call('HDEL', REQUESTS, id)
end

-- The first of its other limits that has no place for the request.
local function blocking(record, place, but)
  for _, limit in ipairs(record.l) do
    if limit ~= but and not has_place(limit, place) then return limit end
  end
end

-- Its turn came, but its session has no room: it keeps its place in line, and its session is told, once.
local function offer(id, record)
  if not record.o then
    record.o = 1
    save(id, record)
  end
  local sid = owner(id)
  if call('HGET', SESSION, sid .. ':offered') == '1' then return end
  call('HSET', SESSION, sid .. ':offered', '1')
  if sid ~= me then notice(sid).offer = true end
end

-- Its turn came, but another of its limits is full: it stands in that one's line, with its old arrival.
-- After TURNS such misses a place is held back for it in each of its limits. Only those that arrived later
-- are held up by that, so two such waiters can't wait for each other.
local function miss_turn(id, record, full)
  leave_line(id, record)
  record.k = record.k + 1
  if record.k == TURNS then
    for _, limit in ipairs(record.l) do
      call('ZADD', RESERVED, 0, limit .. US .. place_of(id, record))
      contend(limit, owner(id))
    end
  end
  stand(id, record, full)
end

-- Give the limit's free places to the first in line whose session has room.
local function serve(limit)
  local from = first(limit)
  while true do
    local line = call('ZRANGEBYLEX', WAITERS, from, last(limit), 'LIMIT', 0, 16)
    if #line == 0 then return end
    for _, member in ipairs(line) do
      from = '(' .. member
      local place = string.sub(member, #limit + 2)
      if not has_place(limit, place) then return end
      local id = string.match(place, US .. '(.*)$')
      local record = load(id)
      local full = blocking(record, place, limit)
      if room(owner(id)) <= 0 then
        if full then
          leave_line(id, record)
          stand(id, record, full)
        else
          offer(id, record)
        end
      elseif full then
        miss_turn(id, record, full)
      else
        grant(id, record)
      end
    end
  end
end

local function serve_all()
  local i = 1
  while queue[i] do
    queued[queue[i]] = nil
    serve(queue[i])
    i = i + 1
  end
end

-- age: us since a request reached its gate, by its worker's clock; so it stands where it belongs however late we hear.
local function arrival_of(age)
  local arrival = int(math.max(clock * 1000 + time[2] % 1000 - math.max(age, 0), 0))
  return string.rep('0', 16 - #arrival) .. arrival
end

-- For how long the task of a waiter has waited (ms). Its place may be an earlier one's of its session.
local function waited(record) return math.max(clock - tonumber(record.w or record.a) / 1000, 0) end

-- A request for a permit: granted at once where every limit has a place, else it stands in line.
local function ask(id, limits, age, task, name)
  local record = { l = limits, a = arrival_of(age), g = 0, k = 0, t = task, n = name }
  call('ZADD', ROLL, 0, roll_member(id, 0))
  local place = place_of(id, record)
  local full = blocking(record, place)
  if full then
    stand(id, record, full)
  elseif room(owner(id)) > 0 then
    grant(id, record)
  else
    stand(id, record, limits[1])
    offer(id, record)
  end
end

-- The queues that a session takes messages of: those who have such messages and no room for them are told of it.
-- source: at which broker, for a queue of the same name at another one is another queue.
local function set_takes(sid, source, queues)
  local field = sid .. ':takes'
  local old = cjson.decode(call('HGET', SESSION, field) or '[]')
  for _, queue in ipairs(old[2] or {}) do call('ZREM', TAKERS, old[1] .. US .. queue .. US .. sid) end
  if #queues == 0 then
    call('HDEL', SESSION, field)
    return
  end
  for _, queue in ipairs(queues) do call('ZADD', TAKERS, 0, source .. US .. queue .. US .. sid) end
  call('HSET', SESSION, field, cjson.encode({ source, queues }))
end

-- Does another session take the queue, and have room, or may grow? (Of many some are looked at, each time others.)
local function is_taken_elsewhere(source, queue)
  local from, to = source .. US .. queue .. US, '(' .. source .. US .. queue .. US_AFTER
  local some = '[' .. from .. string.format('%02x', time[2] % 256)
  local members = call('ZRANGEBYLEX', TAKERS, some, to, 'LIMIT', 0, LOOKED_AT)
  if #members < LOOKED_AT then
    for _, member in ipairs(call('ZRANGEBYLEX', TAKERS, '[' .. from, '(' .. string.sub(some, 2), 'LIMIT', 0,
      LOOKED_AT - #members)) do
      table.insert(members, member)
    end
  end
  for _, member in ipairs(members) do
    local sid = string.sub(member, #from + 1)
    if sid ~= me and room(sid) + (tonumber(call('HGET', SESSION, sid .. ':growth')) or 0) > 0 then return true end
  end
  return false
end

-- Lines of this session's waiters, to be served now that it has room.
local function touch_waiting(sid)
  local from = sid .. ':' .. string.rep('0', 12) .. ':'
  for _, member in ipairs(call('ZRANGEBYLEX', ROLL, '[' .. from, '(' .. sid .. ':' .. string.rep('0', 12) .. ';')) do
    local record = load(sid .. ':' .. string.sub(member, #from + 1))
    if record and record.at then touch(record.at) end
  end
end

-- Sessions are to hear of a changed table, or of what operators set.
local function new_version()
  version = call('HINCRBY', META, 'version', 1)
  table_changed = true
end

-- The value that holds for a limit, from its override and the configured one.
local function refresh(limit)
  local override = call('HGET', OVERRIDES, limit)
  override = override and cjson.decode(override) or {}
  local value = nil
  if override.paused then
    value = 0
  elseif override.max == nil or override.max == cjson.null then
    value = tonumber(call('HGET', CONFIGURED, limit))
  elseif override.max >= 0 then
    value = override.max
  end
  local old = tonumber(call('HGET', MAX, limit))
  if value == old then return end
  new_version()
  maxima[limit] = value or false
  if value then
    call('HSET', MAX, limit, int(value))
    if not old then
      call('HSET', FRESH, limit, version)
      fresh[limit] = version
    end
  else
    call('HDEL', MAX, limit)
    call('HDEL', FRESH, limit)
    fresh[limit] = nil
  end
  touch(limit)
end

-- What an operator has set for a limit: its max, a pause, both, or nothing any more.
local function override_with(limit, override)
  if override.max == nil and not override.paused then
    call('HDEL', OVERRIDES, limit)
  else
    call('HSET', OVERRIDES, limit, cjson.encode(override))
    local first_end = math.min(override.ends or math.huge, override.paused_ends or math.huge)
    if first_end < (ends or math.huge) then
      ends = first_end
      call('HSET', META, 'ends', int(ends))
    end
  end
  refresh(limit)
end

local VALUE_FIELDS = { 'max', 'by', 'at', 'reason', 'ends' }
local PAUSE_FIELDS = { 'paused', 'paused_by', 'paused_at', 'paused_reason', 'paused_ends' }

-- What operators set for a time, and whose time is over, is reset.
local function end_overrides()
  ends = nil
  call('HDEL', META, 'ends')
  local pairs_ = call('HGETALL', OVERRIDES)
  for i = 1, #pairs_, 2 do
    local override = cjson.decode(pairs_[i + 1])
    if override.ends and override.ends <= now then
      for _, field in ipairs(VALUE_FIELDS) do override[field] = nil end
    end
    if override.paused_ends and override.paused_ends <= now then
      for _, field in ipairs(PAUSE_FIELDS) do override[field] = nil end
    end
    override_with(pairs_[i], override)
  end
end

-- In which parts what has ended in the last minute is counted: their length (ms), and how many they are.
local SLOT, SLOTS = 5000, 12

-- What is counted for the whole namespace: one record under no limit's name.
local function add_to_totals(counts)
  local totals = cjson.decode(call('HGET', TOTALS, '') or '{}')
  for name, more in pairs(counts) do totals[name] = (totals[name] or 0) + more end
  call('HSET', TOTALS, '', cjson.encode(totals))
end

-- Limits that began while tasks ran open once every live session has stated what it runs under them.
local function settle()
  if not next(fresh) then return end
  local least = math.huge
  for _, sid in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
    least = math.min(least, tonumber(call('HGET', SESSION, sid .. ':seen')) or 0)
  end
  for limit, since in pairs(fresh) do
    if since <= least then
      call('HDEL', FRESH, limit)
      fresh[limit] = nil
      touch(limit)
    end
  end
end

local function configure(limit)
  local least = nil
  for _, sid in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
    local config = cjson.decode(call('HGET', SESSION, sid .. ':config') or '{}')
    if config[limit] and (not least or config[limit] < least) then least = config[limit] end
  end
  if least then call('HSET', CONFIGURED, limit, int(least)) else call('HDEL', CONFIGURED, limit) end
  refresh(limit)
end

-- A session's interval and timeout stand in HEARTBEATS: all intervals in order, then all timeouts.
local INTERVAL, TIMEOUT = 'interval\31', 'timeout\31'
local function beat_of(kind, ms, sid) return string.format('%s%010.0f%s%s', kind, ms, US, sid) end
local function ms_of(beats) return beats[1] and tonumber(string.match(beats[1], US .. '(%d+)' .. US)) end
local function beat_at(index) return ms_of(call('ZRANGE', HEARTBEATS, index, index)) end
local function slowest() return beat_at(call('ZCARD', HEARTBEATS) / 2 - 1) or interval end

-- Sessions have begun or ended: the least interval holds back the lease clock. While none lives, that of the last does.
local function look_at_heartbeats()
  interval, longest_alive = beat_at(0) or interval, beat_at(-1) or longest_alive
  call('HSET', META, 'interval', int(interval), 'longest', int(longest_alive))
end

-- A session ends: all that it holds and waits for goes, and its configured values no longer count.
-- Return how many permits it held.
local function end_session(sid)
  call('ZREM', SESSIONS, sid)
  local held_ = 0
  local from, to = '[' .. sid .. ':', '(' .. sid .. ';'
  for _, member in ipairs(call('ZRANGEBYLEX', ROLL, from, to)) do
    local granted_as, number = string.match(member, ':(%d+):(.*)$')
    if tonumber(granted_as) > 0 then held_ = held_ + 1 end
    remove(sid .. ':' .. number)
  end
  set_takes(sid, '', {})
  local config = cjson.decode(call('HGET', SESSION, sid .. ':config') or '{}')
  local beats = call('HMGET', SESSION, sid .. ':interval', sid .. ':timeout')
  if beats[1] then call('ZREM', HEARTBEATS, beat_of(INTERVAL, beats[1], sid), beat_of(TIMEOUT, beats[2], sid)) end
  for _, field in ipairs({
    'info', 'config', 'interval', 'timeout', 'queues', 'room', 'granted', 'sync', 'seen', 'offered', 'parked', 'stall',
    'growth',
  }) do
    call('HDEL', SESSION, sid .. ':' .. field)
  end
  for limit in pairs(config) do configure(limit) end
  return held_
end

local function shut_until(ends, is_new)
  if ends > (shut or clock) then
    shut = ends
    call('HSET', META, 'shut', int(shut), 'lost', is_new and '0' or '1')
  end
end

-- Another life of the data: all of it was lost, or it went back in time (an old snapshot, a replica that lacked the
-- last writes). What is here may be out of date, so every limit begins anew: it settles when each session that is
-- known here has stated what it runs, or run out. For sessions that are not known, nothing is granted for a while:
-- whoever lives says something within the longest interval, or, cut off, holds a lease that ends by the longest.
-- Counters begin at 0, for those who read them take any step back for that.
local function begin_epoch(hold, is_new)
  call('EXPIRE', TOTALS, 0)
  epoch = (run or '') .. ':' .. int(now * 1000 + time[2] % 1000)
  born = clock
  call('HSET', META, 'epoch', epoch, 'run', run or '', 'born', int(born), 'known', int(version),
    'clock', int(clock), 'time', int(now))
  shut_until(clock + hold, is_new)
  local limits = call('HKEYS', MAX)
  if #limits == 0 then return end
  new_version()
  for _, limit in ipairs(limits) do
    call('HSET', FRESH, limit, version)
    fresh[limit] = version
  end
end

local function begin()
  if not epoch then return end
  if is_held then
    call('HSET', META, 'clock', int(clock), 'time', int(now), 'held', int(now))
  else
    call('HSET', META, 'clock', int(clock), 'time', int(now))
  end
  if run and run ~= meta[7] then begin_epoch(slowest() + MARGIN) end
  if shut and clock >= shut then
    shut = nil
    call('HDEL', META, 'shut', 'lost')
    for _, limit in ipairs(call('HKEYS', MAX)) do touch(limit) end
  end
  local reclaims, dead = 0, call('ZRANGEBYSCORE', SESSIONS, '-inf', int(clock), 'LIMIT', 0, 64)
  for _, sid in ipairs(dead) do reclaims = reclaims + end_session(sid) end
  if #dead > 0 then look_at_heartbeats() end
  if reclaims > 0 then add_to_totals({ reclaims = reclaims }) end
  if ends and now >= ends then end_overrides() end
end

local nodes = {}
local function node_of(sid)
  local node = nodes[sid]
  if not node then
    node = cjson.decode(call('HGET', SESSION, sid .. ':info') or '{}').node or '?'
    nodes[sid] = node
  end
  return node
end

-- What a session is told of limits: those that others wait for, each with its own streak at the head of the line.
local function recall(limits, sid)
  local found = nil
  for limit in pairs(limits) do
    local contended, streak = contention(limit, sid)
    if contended then
      found = found or {}
      found[limit] = streak
    end
  end
  return found
end

-- Serve what was touched, and tell the other sessions.
local function finish()
  settle()
  serve_all()
  if int(fence) ~= fence_before and fence > 0 then call('HSET', META, 'fence', int(fence)) end
  if table_changed then
    for _, sid in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
      if sid ~= me then notice(sid).version = version end
    end
  end
  for sid, told in pairs(notices) do
    if #told.grants == 0 then told.grants = nil end
    told.recall = recall(told.limits, sid)
    told.limits = nil
    call('PUBLISH', CHANNEL .. sid, cjson.encode(told))
  end
end

local function limit_table()
  local pairs_ = call('HGETALL', MAX)
  local out = {}
  for i = 1, #pairs_, 2 do out[pairs_[i]] = tonumber(pairs_[i + 1]) end
  return out
end

-- What operators set, as it stands: sessions remember it for the case that it is lost here.
local function overrides()
  local pairs_ = call('HGETALL', OVERRIDES)
  local out = {}
  for i = 1, #pairs_, 2 do out[pairs_[i]] = pairs_[i + 1] end
  return out
end
