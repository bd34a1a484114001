-- Begin a session, with what it is configured with and what it runs already.
--
-- Guarantee: its holdings count before anyone is granted another permit; where they exceed a max, that drains.
--         Where data was lost, or may have been, nothing is granted to anyone until no session that this Redis
--         doesn't know of can run anything on a lease.
-- ARGV[2] session, interval and timeout (ms; its own, others may have others), info (node, pid, app, broker...),
--         queues (that it takes from, the first of them), config (limit -> max), room,
--         held ([number, [limits], task id, task name, idle, fencing number, ms since]...), version of the limit table that held
--         goes by (-1: none yet)
--         several (this server is one of several that the worker may be at)
--         and of the session that it replaces, if its worker had one: old [its id, and ids under which a new one was
--         opened without hearing of it...], known (the epoch it lived in, else ''), lease (its end on the lease clock, as
--         last told), longest (the longest lease of any session, as last told, ms), newest (the last version of the
--         table it was told), overrides (limit -> JSON, as it was told)
-- Reply   {status: "ok", epoch, version, table, overrides, lease (its end, ms on the lease clock), longest, shut (ms for
--         which nothing is granted yet), lost (true: data was lost, or may have been; false: this Redis is new to all
--         that came), lapsed (true: the lease of the replaced session had run out),
--         identified (false: the server's id can't be read),
--         strangers: [{app, node, broker}...], of other apps or brokers that share no queue with this one};
--         what it holds has grant number 1
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
local function queue_names(it) return every(it, short) and #it <= 1000 end
expect({
  session = session_id, old = session_ids, known = short, lease = integer, newest = version_number,
  overrides = set_at_run_times, interval = milliseconds, timeout = milliseconds, longest = count, info = facts,
  queues = queue_names, config = configuration, room = integer, held = holdings, version = integer,
  several = flag,
})
begin()
local live = call('ZRANGE', SESSIONS, 0, -1)

-- In how many ms a worker that lived, and can reach this Redis, is back: it tries again at least every 1.5 s, or half an
-- interval of its own (LAST_RETRY in link.py), which needs not be as short as that of this session.
-- One that is at another server looks whether this one is back with its next heartbeat (Alternatives in nodes.py).
local function until_back()
  local retried = math.max(math.min(asked.interval, 2000) + 1000, 1600)
  return asked.several and math.max(asked.interval + 2000, retried) or retried
end

local MOST_LEASE = 300000 -- ms, as settings.py has it: whoever may listen is not to shut us for longer

-- Does a session listen that we don't know? (There is none here yet, and this one subscribes later.) And with how long a
-- lease (ms)? Its channels tell, but where we may not ask for them.
local function others_listen()
  local channels = redis.pcall('PUBSUB', 'CHANNELS', CHANNEL .. '*')
  local found, lease = false, 0
  for _, channel in ipairs(channels) do -- (none in an error)
    found = found or channel ~= CHANNEL .. 'tried' -- that one is rights.py's
    local timeout = string.match(string.sub(channel, #CHANNEL + 1), '^(%d+):')
    lease = math.max(lease, math.min(tonumber(timeout) or 0, MOST_LEASE))
  end
  return found, lease
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
-- Grants wait until the longest lease has ended that any of those can have, as far as this one, or Redis, has heard.
local lost = lived and asked.known ~= epoch
local lapsed = lived and not is_known
local lease_of_others = math.max(longest(), asked.longest, asked.timeout)
if not epoch then
  -- An empty Redis may have had data: whoever lived then, and can reach it, is back by then.
  local somebody, lease = others_listen()
  lapsed, lost = false, lived or somebody
  lease_of_others = math.max(lease_of_others, lease)
  begin_epoch(lost and lease_of_others or until_back(), not lost)
elseif asked.several and not lived and now - (tonumber(meta[2]) or now) > 2 * math.max(slowest() or 0, asked.interval) then
  -- Nobody has said anything here for long: whoever lives is at another server, and back soon.
  begin_epoch(until_back(), true)
elseif lapsed and lost then
  if began(asked.known) > began(epoch) then begin_epoch(lease_of_others) end -- a later epoch is forgotten
  lapsed = clock >= (born or clock) + asked.timeout
  shut_until((born or clock) + lease_of_others)
elseif lapsed and clock < asked.lease then
  begin_epoch(lease_of_others)
  lost, lapsed = true, false
end
if lost then
  heard = lease_of_others
  call('HSET', META, 'heard', int(heard))
end
for sid in pairs(replaced) do end_session(sid) end
call('HSET', SESSION, me .. ':interval', int(asked.interval), me .. ':timeout', int(asked.timeout))
call('ZADD', HEARTBEATS, 0, beat_of(INTERVAL, asked.interval, me), 0, beat_of(TIMEOUT, asked.timeout, me))
look_at_heartbeats()
if lived and lost and asked.newest > (tonumber(call('HGET', META, 'known')) or 0) then restore() end

-- Whose tasks count beside those of this session, though nothing tells that they belong together: those of another app
-- or broker, none of whose sessions takes from a queue of this one at the same broker. One of each.
local function others_that_share_no_queue()
  local mine, groups, found = {}, {}, {}
  for _, queue in ipairs(asked.queues) do mine[queue] = true end
  for _, sid in ipairs(live) do
    local info = not replaced[sid] and cjson.decode(call('HGET', SESSION, sid .. ':info') or '{}')
    if info and (info.app ~= asked.info.app or info.broker ~= asked.info.broker) then
      local name = tostring(info.app) .. US .. tostring(info.broker)
      if groups[name] == nil then groups[name] = info end
      if groups[name] and info.broker == asked.info.broker then
        for _, queue in ipairs(cjson.decode(call('HGET', SESSION, sid .. ':queues') or '[]')) do
          if mine[queue] then groups[name] = false end
        end
      end
    end
  end
  for _, info in pairs(groups) do
    if info and #found < 16 then table.insert(found, { app = info.app, node = info.node, broker = info.broker }) end
  end
  return found
end
local strangers = others_that_share_no_queue()

local lease = clock + asked.timeout
call('ZADD', SESSIONS, int(lease), me)
asked.info.since = now
call('HSET', SESSION, me .. ':info', cjson.encode(asked.info), me .. ':config', cjson.encode(asked.config),
  me .. ':queues', cjson.encode(asked.queues), me .. ':granted', 1, me .. ':sync', 0)
set_room(me, asked.room)
for _, item in ipairs(asked.held) do adopt(item, 1) end
for limit, max in pairs(asked.config) do
  local known = tonumber(call('HGET', CONFIGURED, limit))
  if not known or max < known then
    call('HSET', CONFIGURED, limit, int(max))
    refresh(limit)
  end
end
call('HSET', SESSION, me .. ':seen', lived and lost and 0 or math.max(asked.version, 0))
finish()
return cjson.encode({
  status = 'ok', epoch = epoch, version = version, table = limit_table(), overrides = overrides(), lease = lease,
  longest = longest(), shut = shut and shut - clock or cjson.null, lost = call('HGET', META, 'lost') == '1', lapsed = lapsed, identified = run ~= nil, strangers = strangers,
})
