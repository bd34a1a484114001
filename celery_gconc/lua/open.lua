-- Begin a session, with what it is configured with and what it runs already.
--
-- Guarantee: its holdings count before anyone is granted another permit; where they exceed a max, that drains.
--         Where data was lost, or may have been, nothing is granted to anyone until no session that this Redis
--         doesn't know of can run anything on a lease.
-- ARGV[2] session, interval and timeout (ms), info (node, pid, app, broker...), config (limit -> max), room,
--         held ([number, [limits], task id, task name, idle, fencing number, ms since]...), version of the limit table that held
--         goes by (-1: none yet)
--         and of the session that it replaces, if its worker had one: old [its id, and ids under which a new one was
--         opened without hearing of it...], known (the epoch it lived in, else ''), lease (its end on the lease clock, as
--         last told), newest (the last version of the table it was told), overrides (limit -> JSON, as it was told)
-- Reply   {status: "ok", epoch, version, table, overrides, lease (its end, ms on the lease clock), shut (ms for which
--         nothing is granted yet), lapsed (true: the lease of the replaced session had run out),
--         identified (false: the server's id can't be read), strangers: [node...]};
--         what it holds has grant number 1
--         {status: "refused", interval, timeout, node}: it is new, and the live sessions have other heartbeat settings
-- Cost    O(limits configured x sessions)
local function milliseconds(it) return whole(it, 1, 2 ^ 31) end
local function facts(it)
  if type(it) ~= 'table' then return false end
  for name, fact in pairs(it) do
    if not short(name) or not (short(fact) or integer(fact)) then return false end
  end
  return true
end
local override_kinds = {
  max = function(it) return whole(it, -1, 2 ^ 31) end, paused = flag, by = short, reason = short, paused_by = short,
  at = count, paused_at = count, ends = count, paused_reason = short, paused_ends = count,
}
local function set_at_run_time(text) -- an override, as change.lua makes it
  local read, override = pcall(cjson.decode, text)
  if not read or type(override) ~= 'table' then return false end
  for field, it in pairs(override) do
    if not override_kinds[field] or not override_kinds[field](it) then return false end
  end
  return true
end
local function set_at_run_times(it) return by_limit(it, set_at_run_time) end
local function session_ids(it) return every(it, session_id) end
expect({
  session = session_id, old = session_ids, known = short, lease = integer, newest = version_number,
  overrides = set_at_run_times, interval = milliseconds, timeout = milliseconds, info = facts, config = configuration,
  room = integer, held = holdings, version = integer,
})
begin()
local RETRY = 2000 -- in how many ms, at most, a worker tries to reach Redis again (LAST_RETRY in link.py)
local live = call('ZRANGE', SESSIONS, 0, -1)
local interval, timeout = unpack(call('HMGET', META, 'interval', 'timeout'))
if #live > 0 and asked.known == '' and (tonumber(interval) ~= asked.interval or tonumber(timeout) ~= asked.timeout) then
  finish()
  local info = cjson.decode(call('HGET', SESSION, live[1] .. ':info') or '{}')
  return cjson.encode({ status = 'refused', interval = tonumber(interval), timeout = tonumber(timeout), node = info.node })
end

-- Does a session listen that we don't know? (There is none here yet, and this one subscribes later.)
local function others_listen()
  local channels = redis.pcall('PUBSUB', 'CHANNELS', CHANNEL .. '*')
  for _, channel in ipairs(channels) do -- (none in an error)
    if channel ~= CHANNEL .. 'tried' then return true end -- that one is rights.py's
  end
  return false
end

local function began(some_epoch) return tonumber(string.match(some_epoch, ':(%d+)$')) or 0 end

-- Bring back what operators had set, as this session remembers it; what was set since the loss stays.
local function restore()
  local limits = overrides()
  for limit in pairs(asked.overrides) do limits[limit] = limits[limit] or '{}' end
  for limit, text in pairs(limits) do
    local override, told = cjson.decode(text), cjson.decode(asked.overrides[limit] or '{}')
    for kind, fields in pairs({ value = VALUE_FIELDS, pause = PAUSE_FIELDS }) do
      local change = call('HGET', CHANGES, limit .. US .. kind)
      change = change and cjson.decode(change)
      if not change or change.epoch and change.epoch ~= epoch then -- it was made before the loss
        for _, field in ipairs(fields) do override[field] = told[field] end
      end
    end
    override_with(limit, override)
  end
  call('HSET', META, 'known', int(asked.newest), 'version', int(math.max(version, asked.newest)))
  new_version()
end

local lived, is_known, replaced = asked.known ~= '', false, {}
for _, sid in ipairs(asked.old) do
  replaced[sid] = true
  is_known = is_known or call('ZSCORE', SESSIONS, sid)
end
-- A session that isn't known here though its lease has not run out: data was lost, and others may be missing too.
local lost = lived and asked.known ~= epoch
local lapsed = lived and not is_known
if not epoch then
  -- An empty Redis may have had data: whoever lived then, and can reach it, is back by then.
  begin_epoch((lived or others_listen()) and asked.timeout or math.min(asked.interval, RETRY) + 1000)
  lapsed = false
elseif lapsed and lost then
  local ends = (born or clock) + asked.timeout
  if began(asked.known) > began(epoch) then
    begin_epoch(asked.timeout) -- a later epoch is forgotten
    ends = clock + asked.timeout
  end
  lapsed = clock >= ends
  shut_until(ends)
elseif lapsed and clock < asked.lease then
  begin_epoch(asked.timeout)
  lost, lapsed = true, false
end
call('HSET', META, 'interval', int(asked.interval), 'timeout', int(asked.timeout))
for sid in pairs(replaced) do end_session(sid) end
if lost and asked.newest > (tonumber(call('HGET', META, 'known')) or 0) then restore() end

local strangers = {}
for _, sid in ipairs(live) do
  local info = cjson.decode(call('HGET', SESSION, sid .. ':info') or '{}')
  if not replaced[sid] and (info.app ~= asked.info.app or info.broker ~= asked.info.broker) then
    table.insert(strangers, info.node)
  end
end

local lease = clock + asked.timeout
call('ZADD', SESSIONS, int(lease), me)
asked.info.since = now
call('HSET', SESSION, me .. ':info', cjson.encode(asked.info), me .. ':config', cjson.encode(asked.config),
  me .. ':granted', 1, me .. ':sync', 0)
set_room(me, asked.room)
for _, item in ipairs(asked.held) do adopt(item, 1) end
for limit, max in pairs(asked.config) do
  local known = tonumber(call('HGET', CONFIGURED, limit))
  if not known or max < known then
    call('HSET', CONFIGURED, limit, int(max))
    refresh(limit)
  end
end
call('HSET', SESSION, me .. ':seen', lost and 0 or math.max(asked.version, 0))
finish()
return cjson.encode({
  status = 'ok', epoch = epoch, version = version, table = limit_table(), overrides = overrides(), lease = lease,
  shut = shut and shut - clock or cjson.null, lapsed = lapsed, identified = run ~= nil, strangers = strangers,
})
