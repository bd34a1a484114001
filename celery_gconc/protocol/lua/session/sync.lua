-- uses: input meta time clock members limits configs unused units hungry wants grants running rooms contention lines serving takers notices news heartbeats epochs reply
-- One round trip of a session: the units that it has, what waits there for more, the room it has; at heartbeats all of it.
--
-- Guarantee: syncs are numbered, an older one changes nothing. Units are told as they were at grant `granted`: those of
-- later grants are added to that, and the grants told again. A statement (full) brings Redis in line with the session:
-- what it doesn't name is gone. Every sync renews the lease.
-- ARGV[2] session, epoch, sync (its number), confirmed (the number of the last one that was
--         answered, 0 for none), granted (number of the last grant it knows), room (free slots as of that grant),
--         version (of its limit table: -1, none since it is open), known (the version up to which it was told the next
--         one; version, where it is left out), units (limit -> how many it has, used or not: of those where that has changed;
--         in a statement of all), wants [WANT...] (that have changed; in a statement all; skip and kept: of the requests
--         that it told before and that were not granted by then, the first skip are gone, the next kept stay; requests:
--         [ROW...], that follow on those; age: us since its gate; queue_limit: that of their queue, where all of them may
--         still go back there),
--         interests (other limits it has units of, to hear whether they are contended), full (true: a statement)
--         and where there is something to say: fence (of its last grant: a statement), running (a JSON list of RUN rows:
--         what runs, with a statement where that has changed; age: ms since its start), idle (limit -> units that no task
--         uses: a statement), over [task id...] (of those, whose tasks have ended since), ended [grant...] (likewise of
--         tasks that were started since), source (a digest of the broker's identity), takes [queue...] (all that it
--         takes messages of there, when that has changed), growth (by how many slots its pool may still grow),
--         hungry (limit -> how many more messages of its queue it would read, had it units: of those where that has
--         changed; in a statement of all),
--         weak [[set, [queue...]]...] (wants whose turn came while it had no room, with the queues of the messages
--         that wait there; set 0: queues that it leaves alone, and would take up where nobody else has room)
-- Reply   {status: "ok", version (the newest), grants: [GRANT...] (at: wall time, ms),
--          recall: {contended limit: streak...}, shares: {limit: how many units it is to keep at most, as its tasks end},
--          stands: [[set, limit]...] (of the wants that it told those whose turn has not come, and in which line; of a hungry
--          session, of others as well), offer (its turn came, but it has no room), lease (its end, ms on the lease clock),
--          longest (the longest lease of any session that may live, ms),
--          expires: ms until another session's lease ends, grants go on, what was set for a time ends, a configuration no
--          longer counts, or the lease clock is to go on; 0 where a script has left work to the next; changes: {before, version, rows [LIMIT...]} of the limit table,
--          that lead from the one that it knows (-1: what isn't named is gone) to one of that version, not yet the newest
--          where there are many; only where there are any,
--          fence: a new one, to a statement; unclear: true where wants keep requests that are not known here,
--          elsewhere: of the queues in weak those that another session takes and has room for}
--         {status: "closed"}: no such session (its lease ran out, or data was lost), or, to a statement, not all of what
--          it is configured with is here: open a new one
--         {status: "stale"}: a later sync came first; nothing was changed
-- Cost    O(units + requests + grants + takes + weak), each as core says
local int, asked = members.int, input.asked
local SESSION, SESSIONS = key.session, key.sessions
local me = input.me

-- (As `expect` does, but for less: this is the script that is called all the time. A session that isn't open is told so.)
local whole, count, every, limit_name, short = input.whole, input.count, input.every, input.limit_name, input.short
local function is_weak(row) return type(row) == 'table' and count(row[1]) and every(row[2], limit_name) end
local function may_be_left_out(it, kind) return it == nil or kind(it) end
if not (type(me) == 'string' and whole(asked.sync, 0, 9e15) and whole(asked.confirmed, 0, 9e15)
  and input.grant_number(asked.granted) and whole(asked.room, -9e15, 9e15) and whole(asked.version, -1, 9e15)
  and whole(asked.known or asked.version, -1, 9e15)
  and type(asked.full) == 'boolean' and input.by_limit(asked.units, count) and every(asked.interests, limit_name)
  and input.wants(asked.wants) and may_be_left_out(asked.growth, count) and may_be_left_out(asked.fence, input.sized)
  and (asked.running == nil or type(asked.running) == 'string')
  and (asked.idle == nil or input.by_limit(asked.idle, count)) and every(asked.over or {}, short)
  and (asked.hungry == nil or input.by_limit(asked.hungry, count))
  and every(asked.ended or {}, input.grant_number)
  and (asked.takes == nil and asked.weak == nil or limit_name(asked.source) and every(asked.takes or {}, limit_name)
    and every(asked.weak or {}, is_weak))) then
  error('celery-gconc: not what this script takes')
end
if not meta.epoch then return cjson.encode({ status = 'closed' }) end
epochs.begin()

local interests = {} -- limits whose contention the session is to hear

-- What it was granted and can't have known of: the rows, the units of each limit, the requests of each set.
local unknown, unknown_units, unknown_requests = {}, {}, {}
local function look_for_unknown(last_grant)
  if last_grant <= asked.granted then return end
  unknown = grants.since(me, asked.granted)
  for _, row in ipairs(unknown) do
    for _, claim in ipairs(row[GRANT.claims]) do
      unknown_units[claim[1]] = (unknown_units[claim[1]] or 0) + claim[2]
    end
    unknown_requests[row[GRANT.set]] = (unknown_requests[row[GRANT.set]] or 0) + 1
  end
end

local function take_units()
  local now = {}
  for limit, stated in pairs(asked.units) do
    now[limit] = stated + (unknown_units[limit] or 0)
    interests[limit] = true
  end
  if next(now) then units.set_all(me, now) end
  if not asked.full then return end
  for _, limit in ipairs(units.limits_of(me)) do
    if not asked.units[limit] then units.set(me, limit, unknown_units[limit] or 0) end
  end
end

-- Those of a want by their tasks: one that is told anew has arrived when it did.
local function by_task(record)
  local found = {}
  for _, request in ipairs(record and record.r or {}) do found[request[2]] = request end
  found[''] = nil
  return found
end

-- The requests of a want as they are from now on. Nil where it keeps some that are not known here.
-- None of them arrived before the one that it follows: where the lease clock stood still, an age may say so.
local function requests_of(row, record)
  local found, known, granted = {}, by_task(record), unknown_requests[row[WANT.set]] or 0
  local latest = ''
  local kept = row[WANT.kept]
  for i = row[WANT.skip] + 1, row[WANT.skip] + kept - granted do
    local request = record and record.r[i]
    if not request then return nil end
    table.insert(found, request)
    latest = request[1]
  end
  for i = math.max(granted - kept, 0) + 1, #row[WANT.requests] do
    local request = row[WANT.requests][i]
    request = known[request[ROW.task_id]] or { clock.arrival_of(request[ROW.age]), request[ROW.task_id], request[ROW.task] }
    if request[1] < latest then request = { latest, request[2], request[3] } end
    latest = request[1]
    table.insert(found, request)
  end
  return found
end

-- Wants as they are told: each has its requests from now on, and those that are left with none end. Return new ones.
local is_unclear = false
local function take_wants()
  local new, named = {}, {}
  for _, row in ipairs(asked.wants) do
    local id = me .. ':' .. int(row[WANT.set])
    local record = wants.load(id)
    named[id] = true
    for _, claim in ipairs(row[WANT.claims]) do interests[claim[1]] = true end
    if record and not wants.are_same(record.c, row[WANT.claims]) then
      serving.remove(id)
      record = nil
    end
    local requests = requests_of(row, record)
    if not requests then
      is_unclear = true
    elseif #requests == 0 then
      serving.remove(id)
    elseif record then
      serving.change(id, record, requests, row[WANT.queue_limit])
    else
      table.insert(new, { id = id, record = { c = row[WANT.claims], r = requests, k = 0, q = row[WANT.queue_limit] } })
    end
  end
  if asked.full then
    for _, id in ipairs(wants.ids_of(me)) do
      if not named[id] then serving.remove(id) end
    end
  end
  return new
end

-- Of which queues it would read more.
local function take_hungry()
  for limit, wanted in pairs(asked.hungry or {}) do
    interests[limit] = true
    local held = units.of(me, limit)
    if hungry.state(me, limit, wanted, held) then
      contention.begin(limit, me)
      if held == 0 then contention.tell(limit) end -- shares are smaller by one
      limits.touch(limit)
    elseif wanted == 0 then
      contention.finish_if_empty(limit)
    end
  end
  if not asked.full then return end
  for _, limit in ipairs(hungry.limits_of(me)) do
    if not (asked.hungry and asked.hungry[limit]) then
      hungry.state(me, limit, 0)
      contention.finish_if_empty(limit)
    end
  end
end

-- Of the wants that it told, and whose turn has not come: in which line each stands. While it is hungry, of some others
-- too: what they lack may be another limit by now.
local function where_they_stand()
  local SOME = 32
  local ids, found = {}, {}
  for _, row in ipairs(asked.wants) do ids[me .. ':' .. int(row[WANT.set])] = true end
  if #hungry.limits_of(me, 1) > 0 then
    for _, id in ipairs(wants.ids_of(me, SOME)) do ids[id] = true end
  end
  for id in pairs(ids) do
    local record = wants.load(id)
    if record and record.at and not record.o then
      table.insert(found, { tonumber(string.match(id, ':(.*)$')), record.at })
    end
  end
  return #found > 0 and found or nil
end

-- Of the queues that are said to be weak those that another session takes and has room for.
local function taken_elsewhere()
  local found = {}
  for _, row in ipairs(asked.weak or {}) do
    local record = row[1] > 0 and wants.load(me .. ':' .. int(row[1]))
    if row[1] == 0 or record and record.o then
      for _, queue in ipairs(row[2]) do
        if takers.is_taken_elsewhere(asked.source, queue) then table.insert(found, queue) end
      end
    end
  end
  return found
end

-- What people see of it.
local function take_running(has_idle)
  if asked.running then running.state(me, asked.running) end
  if asked.over then running.have_ended(me, asked.over) end
  for _, grant in ipairs(asked.ended or {}) do
    if grant <= asked.granted then grants.forget(me, grant) end
  end
  if not asked.full then return end
  grants.forget_to(me, asked.granted)
  if asked.idle or has_idle then units.state_idle(me, asked.idle or {}) end
  if asked.idle then call('HSET', SESSION, me .. ':idle', '1') elseif has_idle then call('HDEL', SESSION, me .. ':idle') end
end

-- In how many ms something may happen that this session would not be told of; nil: nothing.
local function until_next_event(own_interval)
  if meta.served_to or limits.are_some_put_off() then return 0 end
  local soonest, least = epochs.end_first(), nil
  for i = #soonest - 1, 1, -2 do
    if soonest[i] ~= me then least = math.max(tonumber(soonest[i + 1]) - clock.at, 0) end
  end
  if meta.closed_until then least = math.min(least or math.huge, meta.closed_until - clock.at) end
  local config_end = unused.until_end()
  if config_end then least = math.min(least or math.huge, config_end) end
  -- Where nobody calls often enough for the lease clock to go with the time (its least interval is a dead session's,
  -- say), whoever waits does.
  if least and time.now - (clock.is_held and time.now or meta.held or 0) <= own_interval then
    least = math.min(least, math.ceil(meta.interval * 1.05))
  end
  if meta.next_override_end then least = math.min(least or math.huge, math.max(meta.next_override_end - time.now, 0)) end
  return least
end

local known = call('HMGET', SESSION, me .. ':sync', me .. ':room', me .. ':timeout', me .. ':interval', me .. ':granted',
  me .. ':aside', me .. ':offered', me .. ':config', me .. ':idle')
local last_sync, room_before, last_grant = tonumber(known[1]), tonumber(known[2]), tonumber(known[5]) or 0
if meta.epoch == asked.epoch and last_sync and last_sync < asked.confirmed then
  -- What we answered is forgotten, on the same server: DEBUG RELOAD NOSAVE, or a restart where its id can't be read.
  epochs.begin_after_loss()
end
local is_closed = meta.epoch ~= asked.epoch or not last_sync or asked.full and not configs.is_whole(known[8])
local refusal = is_closed and 'closed' or asked.sync <= last_sync and 'stale'
if refusal then
  reply.finish()
  return cjson.encode({ status = refusal })
end
local lease = clock.at + tonumber(known[3])
call('ZADD', SESSIONS, int(lease), me)
call('HSET', SESSION, me .. ':sync', asked.sync)
if known[7] then call('HDEL', SESSION, me .. ':offered') end
-- (A version that is not here yet is not of this life of the data.)
local version = asked.version <= meta.version and asked.version or -1
local heard = (asked.known or version) <= meta.version and asked.known or version
call('ZADD', key.stated, version, me)
if known[6] then lines.bring_back(me) end
if asked.takes then takers.set(me, asked.source, asked.takes) end
if asked.growth then call('HSET', SESSION, me .. ':growth', int(asked.growth)) end

if asked.fence then grants.has_seen_fence(asked.fence) end
local fence = asked.full and grants.next_fence()
look_for_unknown(last_grant)
take_units()
take_running(known[9])
local new_wants = take_wants()
take_hungry()

-- Room as stated, less the grants since the one it knows.
local room = asked.room - #unknown
if room ~= room_before then
  rooms.know(me, room_before)
  rooms.set(me, room)
end
limits.open_settled()
if room_before <= 0 or asked.full then rooms.touch_lines_of(me) end
if limits.are_some_touched() then serving.serve_all() end
for _, want in ipairs(new_wants) do serving.ask(want.id, want.record) end
local elsewhere = taken_elsewhere()
reply.finish()

for _, limit in ipairs(asked.interests) do interests[limit] = true end
local answer = {
  status = 'ok', version = meta.version, offer = notices.all[me] ~= nil, lease = lease, longest = heartbeats.longest_lease(),
  expires = until_next_event(tonumber(known[4])),
}
if tonumber(call('HGET', SESSION, me .. ':granted') or 0) > asked.granted then
  answer.grants = grants.since(me, asked.granted)
end
if next(interests) then answer.recall, answer.shares = contention.recall(interests, me) end
answer.stands = where_they_stand()
if #elsewhere > 0 then answer.elsewhere = elsewhere end
if asked.full then answer.fence = fence end
if is_unclear then answer.unclear = true end
if heard < meta.version then answer.changes = news.since(heard) end
return cjson.encode(answer)
