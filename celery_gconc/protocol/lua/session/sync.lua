-- uses: input meta time clock members limits overrides permits rooms contention lines serving takers epochs reply
-- One round trip of a session: what ended, what is asked for, the room it has; at heartbeats all that it holds.
--
-- Guarantee: syncs are numbered, an older one changes nothing. A statement (full) brings Redis in line with the
-- session: what it doesn't name is removed, but for grants it couldn't know of (numbered above granted), which
-- are sent again. Every sync renews the lease.
-- ARGV[2] session, epoch, sync (its number), confirmed (the number of the last one that was
--         answered, 0 for none), granted (number of the last grant it knows), room (free slots as of that grant),
--         version (of its limit table), ended [number...],
--         asks [ASK...] (age: us since its gate),
--         interests (limits it holds idle or reused permits of, to hear whether they are contended),
--         full (true: a statement), held [HELD...] (full, or newly covered; idle: 0 or 1; fence: 0 if it was never
--         granted; age: ms for which its task has had it)
--         and where there is something to say: source (a digest of the broker's identity), takes [queue...] (all that it
--         takes messages of there, when that has changed), growth (by how many slots its pool may still grow),
--         weak [[number, [queue...]]...] (requests whose turn came while it had no room, with the queues of the messages
--         that wait there; number 0: queues that it leaves alone, and would take up where nobody else has room)
-- Reply   {status: "ok", version, grants: [GRANT...] (at: wall time, ms),
--          recall: {contended limit: streak...}, offer, lease (its end, ms on the lease clock),
--          longest (the longest lease of any session that may live, ms),
--          expires: ms until another session's lease ends, grants go on, what was set for a time ends, or the lease clock
--          is to go on; table and overrides: where version differs,
--          elsewhere: of the queues in weak those that another session takes and has room for}
--         {status: "closed"}: no such session (its lease ran out, or data was lost): open a new one
--         {status: "stale"}: a later sync came first; nothing was changed
-- Cost    O(ended + asks + held + grants + takes + weak), each as core says
local int, asked = members.int, input.asked
local SESSION, SESSIONS, ROLL = key.session, key.sessions, key.roll
local me = input.me

-- (As `expect` does, but for less: this is the script that is called all the time. A session that isn't open is told so.)
local whole, count, every, limit_name = input.whole, input.count, input.every, input.limit_name
local function is_weak(row) return type(row) == 'table' and count(row[1]) and every(row[2], limit_name) end
local function may_be_left_out(it, kind) return it == nil or kind(it) end
if not (type(me) == 'string' and whole(asked.sync, 0, 9e15) and whole(asked.confirmed, 0, 9e15)
  and input.grant_number(asked.granted) and whole(asked.room, -9e15, 9e15) and whole(asked.version, -1, 9e15)
  and type(asked.full) == 'boolean' and every(asked.ended, count) and every(asked.interests, limit_name)
  and input.asks(asked.asks) and input.holdings(asked.held) and may_be_left_out(asked.growth, count)
  and (asked.takes == nil and asked.weak == nil or limit_name(asked.source) and every(asked.takes or {}, limit_name)
    and every(asked.weak or {}, is_weak))) then
  error('celery-gconc: not what this script takes')
end
if not meta.epoch then return cjson.encode({ status = 'closed' }) end
epochs.begin()

local interests = {} -- limits whose contention the session is to hear

-- What a statement doesn't name is removed, but for grants that the session couldn't know of.
local function remove_unnamed()
  local named = {}
  for _, row in ipairs(asked.held) do named[int(row[HELD.number])] = true end
  for _, row in ipairs(asked.asks) do named[int(row[ASK.number])] = true end
  for _, member in ipairs(call('ZRANGEBYLEX', ROLL, members.roll_of(me))) do
    local grant, number = members.read_roll(member)
    if not named[number] and tonumber(grant) <= asked.granted then serving.remove(me .. ':' .. number) end
  end
end

local function state(row)
  local id, claims = me .. ':' .. int(row[HELD.number]), row[HELD.claims]
  local record = permits.load(id)
  if record and record.g > 0 and permits.are_same(record.c, claims) then
    if record.t ~= row[HELD.task_id] or record.i ~= row[HELD.idle] then -- reused for another task, or idle
      record.t, record.n, record.i = row[HELD.task_id], row[HELD.task], row[HELD.idle]
      record.s = time.now - row[HELD.age]
      permits.save(id, record)
    end
  else
    if record then serving.remove(id) end
    permits.adopt(me, row, asked.granted)
  end
  for _, claim in ipairs(claims) do interests[claim[1]] = true end
end

local function ask(row)
  local id, claims = me .. ':' .. int(row[ASK.number]), row[ASK.claims]
  local record = permits.load(id)
  if record and record.g == 0 and not permits.are_same(record.c, claims) then
    serving.remove(id)
    serving.serve_all()
    record = nil
  end
  if not record then
    serving.ask(id, row)
  elseif record.g == 0 and record.t ~= row[ASK.task_id] then -- another of its requests is at this position of its line by now
    record.t, record.n, record.w = row[ASK.task_id], row[ASK.task], clock.arrival_of(row[ASK.age])
    permits.save(id, record)
  end
  for _, claim in ipairs(claims) do interests[claim[1]] = true end
end

-- Of the queues that are said to be weak those that another session takes and has room for.
local function taken_elsewhere()
  local found = {}
  for _, row in ipairs(asked.weak or {}) do
    local record = row[1] > 0 and permits.load(me .. ':' .. int(row[1]))
    if row[1] == 0 or record and record.g == 0 and record.o then
      for _, queue in ipairs(row[2]) do
        if takers.is_taken_elsewhere(asked.source, queue) then table.insert(found, queue) end
      end
    end
  end
  return found
end

local function unknown_grants()
  local grants = {}
  for _, member in ipairs(call('ZRANGEBYLEX', ROLL, members.roll_since(me, asked.granted + 1))) do
    local grant, number = members.read_roll(member)
    local record = permits.load(me .. ':' .. number)
    table.insert(grants, permits.grant_row(tonumber(grant), tonumber(number), record))
  end
  return grants
end

-- In how many ms something may happen that this session would not be told of; nil: nothing.
local function until_next_event(own_interval)
  local soonest, least = call('ZRANGE', SESSIONS, 0, 1, 'WITHSCORES'), nil
  for i = #soonest - 1, 1, -2 do
    if soonest[i] ~= me then least = math.max(tonumber(soonest[i + 1]) - clock.at, 0) end
  end
  if meta.closed_until then least = math.min(least or math.huge, meta.closed_until - clock.at) end
  -- Where nobody calls often enough for the lease clock to go with the time (its least interval is a dead session's,
  -- say), whoever waits does.
  if least and time.now - (clock.is_held and time.now or meta.held or 0) <= own_interval then
    least = math.min(least, math.ceil(meta.interval * 1.05))
  end
  if meta.next_override_end then least = math.min(least or math.huge, math.max(meta.next_override_end - time.now, 0)) end
  return least
end

local known = call('HMGET', SESSION, me .. ':sync', me .. ':room', me .. ':timeout', me .. ':interval')
local last_sync, room_before = tonumber(known[1]), tonumber(known[2])
if meta.epoch == asked.epoch and last_sync and last_sync < asked.confirmed then
  -- What we answered is forgotten, on the same server: DEBUG RELOAD NOSAVE, or a restart where its id can't be read.
  epochs.begin_after_loss()
end
local refusal = (meta.epoch ~= asked.epoch or not last_sync) and 'closed' or asked.sync <= last_sync and 'stale'
if refusal then
  reply.finish()
  return cjson.encode({ status = refusal })
end
local lease = clock.at + tonumber(known[3])
call('ZADD', SESSIONS, int(lease), me)
call('HSET', SESSION, me .. ':sync', asked.sync, me .. ':offered', '0')
call('ZADD', key.stated, asked.version, me)
lines.bring_back(me)
if asked.takes then takers.set(me, asked.source, asked.takes) end
if asked.growth then call('HSET', SESSION, me .. ':growth', int(asked.growth)) end

for _, number in ipairs(asked.ended) do serving.remove(me .. ':' .. int(number)) end
if asked.full then remove_unnamed() end
for _, row in ipairs(asked.held) do state(row) end

-- Room as stated, less the grants since the one it knows, as far as they still stand.
rooms.know(me, room_before)
rooms.set(me, asked.room - call('ZLEXCOUNT', ROLL, members.roll_since(me, asked.granted + 1)))
limits.open_settled()
serving.serve_all()
if room_before <= 0 or asked.full then
  rooms.touch_lines_of(me)
  serving.serve_all()
end
for _, row in ipairs(asked.asks) do ask(row) end
local elsewhere = taken_elsewhere()
reply.finish()

for _, limit in ipairs(asked.interests) do interests[limit] = true end
local answer = {
  status = 'ok', version = meta.version, grants = unknown_grants(), recall = contention.recall(interests, me),
  offer = rooms.is_offered(), lease = lease, longest = epochs.longest(),
  expires = until_next_event(tonumber(known[4])),
}
if #elsewhere > 0 then answer.elsewhere = elsewhere end
if meta.version ~= asked.version then answer.table, answer.overrides = limits.all(), overrides.all() end
return cjson.encode(answer)
