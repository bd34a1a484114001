-- uses: input meta server time clock members configs units grants running rooms apps sessions heartbeats epochs reply
-- Begin a session, with what it is configured with and what it runs already.
--
-- Guarantee: what it runs counts before anyone is granted anything more; where that exceeds a max, it drains.
--         Where data was lost, or may have been, nothing is granted to anyone until no session that this Redis
--         doesn't know of can run anything on a lease.
-- ARGV[2] session, interval and timeout (ms; its own, others may have others), info (node, pid, app, broker...),
--         queues (that it takes from, the first of them), config (the digest of what it is configured with), room,
--         units (limit -> how many its tasks use), running and fence as in sync.lua,
--         several (this server is one of several that the worker may be at)
--         and of the session that it replaces, if its worker had one: old [its id, and ids under which a new one was
--         opened without hearing of it...], known (the epoch it lived in, else ''), lease (its end on the lease clock, as
--         last told), longest (the longest lease of any session, as last told, ms), newest (the last version of which
--         it was told the whole table)
-- Reply   {status: "ok", epoch, version (of the limit table; syncs tell what is in it), lease (its end, ms on the lease clock), longest, shut (ms for
--         which nothing is granted yet), lost (true: data was lost, or may have been; false: this Redis is new to all
--         that came), lapsed (true: the lease of the replaced session had run out),
--         identified (false: the server's id can't be read),
--         strangers: [{app, node, broker}...], of other apps or brokers that share no queue with this one};
--         what it runs is as of grant 1
--         {status: "unknown"}: this Redis doesn't have that configuration whole; send it by configure.lua, and open again
--         {status: "forgotten"}: nor what operators had set, as the replaced session knows it: restore.lua, likewise
-- Cost    O(limits that hold)
local int, asked = members.int, input.asked
local META, SESSION, SESSIONS = key.meta, key.session, key.sessions
local me = input.me
local short, count, every = input.short, input.count, input.every

local function facts(it)
  if type(it) ~= 'table' then return false end
  for name, fact in pairs(it) do
    if not short(name) or not (short(fact) or input.integer(fact)) then return false end
  end
  return true
end
local function session_ids(it) return every(it, input.session_id) end
local function queue_names(it) return every(it, short) and #it <= 1000 end
input.expect({
  session = input.session_id, old = session_ids, known = short, lease = input.integer, newest = input.sized,
  interval = input.milliseconds, timeout = input.milliseconds, longest = count, info = facts,
  queues = queue_names, config = input.digest, room = input.integer,
  units = function(it) return input.by_limit(it, count) end, running = function(it) return type(it) == 'string' end,
  fence = input.sized, several = input.flag,
})
epochs.begin()

-- In how many ms a worker that lived, and can reach this Redis, is back: it tries again at least every LAST_RETRY, or
-- half an interval of its own, which needs not be as short as that of this session.
-- One that is at another server looks whether this one is back with its next heartbeat (Alternatives in nodes.py).
local function until_back()
  local retried = math.max(math.min(asked.interval, 2000) + 1000, constant.LAST_RETRY + 100)
  return asked.several and math.max(asked.interval + 2000, retried) or retried
end

-- Does a session listen that we don't know? (There is none here yet, and this one subscribes later.) And with how long a
-- lease (ms)? Its channels tell, but where we may not ask for them. Whoever may listen is not to shut us for longer than
-- the longest timeout that may be set.
local function others_listen()
  local channel_prefix = ARGV[1]
  local channels = redis.pcall('PUBSUB', 'CHANNELS', channel_prefix .. '*')
  local found, longest_lease = false, 0
  for _, channel in ipairs(channels) do -- (none in an error)
    found = found or channel ~= channel_prefix .. 'tried' -- that one is rights.py's
    local timeout = string.match(string.sub(channel, #channel_prefix + 1), '^(%d+):')
    longest_lease = math.max(longest_lease, math.min(tonumber(timeout) or 0, constant.MAX_TIMEOUT))
  end
  return found, longest_lease
end

local function began(epoch) return tonumber(string.match(epoch, ':(%d+)$')) or 0 end

local lived, is_known, replaced = asked.known ~= '', false, {}
for _, sid in ipairs(asked.old) do
  replaced[sid] = true
  is_known = is_known or call('HEXISTS', SESSION, sid .. ':sync') == 1 -- (not so while it ends)
end

-- Begin an epoch where data was lost, or may have been. Return whether it was, and whether the lease of the session that
-- this one replaces had run out.
local function look_for_loss()
  -- A session that isn't known here though its lease has not run out: data was lost, and others may be missing too.
  -- Grants wait until the longest lease has ended that any of those can have, as far as this one, or Redis, has heard.
  local lost = lived and asked.known ~= meta.epoch
  local lapsed = lived and not is_known
  local lease_of_others = math.max(heartbeats.longest_lease(), asked.longest, asked.timeout)
  if not meta.epoch then
    -- An empty Redis may have had data: whoever lived then, and can reach it, is back by then.
    local somebody, their_lease = others_listen()
    lapsed, lost = false, lived or somebody
    lease_of_others = math.max(lease_of_others, their_lease)
    epochs.begin_epoch(lost and lease_of_others or until_back(), not lost)
  elseif asked.several and not lived
    and time.now - (meta.time or time.now) > 2 * math.max(heartbeats.slowest() or 0, asked.interval) then
    -- Nobody has said anything here for long: whoever lives is at another server, and back soon.
    epochs.begin_epoch(until_back(), true)
  elseif lapsed and lost then
    if began(asked.known) > began(meta.epoch) then epochs.begin_epoch(lease_of_others) end -- a later one is forgotten
    lapsed = clock.at >= (meta.epoch_began or clock.at) + asked.timeout
    epochs.shut_until((meta.epoch_began or clock.at) + lease_of_others)
  elseif lapsed and clock.at < asked.lease then
    epochs.begin_epoch(lease_of_others)
    lost, lapsed = true, false
  end
  if lost then
    meta.heard = lease_of_others
    call('HSET', META, 'heard', int(meta.heard))
  end
  return lost, lapsed
end

local lost, lapsed = look_for_loss()
local lacks = not configs.is_whole(asked.config) and 'unknown'
  or lived and lost and asked.newest > (tonumber(call('HGET', META, 'overrides_version')) or 0) and 'forgotten'
if lacks then
  reply.finish()
  return cjson.encode({ status = lacks })
end
for sid in pairs(replaced) do sessions.finish(sid, sessions.ALL) end
if call('ZSCORE', SESSIONS, me) and call('HEXISTS', SESSION, me .. ':sync') == 0 then sessions.finish(me, sessions.ALL) end
call('HSET', SESSION, me .. ':interval', int(asked.interval), me .. ':timeout', int(asked.timeout))
heartbeats.add(me, asked.interval, asked.timeout)
heartbeats.changed()
local strangers = apps.others(asked.info, asked.queues)

local lease = clock.at + asked.timeout
call('ZADD', SESSIONS, int(lease), me)
asked.info.since = time.now
call('HSET', SESSION, me .. ':info', cjson.encode(asked.info), me .. ':config', asked.config,
  me .. ':queues', cjson.encode(asked.queues), me .. ':granted', 1, me .. ':sync', 0)
apps.add(me, asked.info, asked.queues)
configs.enter(asked.config, me)
rooms.set(me, asked.room)
grants.has_seen_fence(asked.fence)
for limit, used in pairs(asked.units) do units.set(me, limit, used) end
running.state(me, asked.running)
call('ZADD', key.stated, -1, me) -- what it runs is by a table that nobody here knows
reply.finish()
return cjson.encode({
  status = 'ok', epoch = meta.epoch, version = meta.version,
  lease = lease, longest = heartbeats.longest_lease(), shut = meta.closed_until and meta.closed_until - clock.at or cjson.null,
  lost = call('HGET', META, 'lost') == '1', lapsed = lapsed, identified = server.id ~= nil, strangers = strangers,
})
