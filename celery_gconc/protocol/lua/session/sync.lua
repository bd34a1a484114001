-- One round trip of a session: what ended, what is asked for, the room it has; at heartbeats all that it holds.
--
-- Guarantee: syncs are numbered, an older one changes nothing. A statement (full) brings Redis in line with the
-- session: what it doesn't name is removed, but for grants it couldn't know of (numbered above granted), which
-- are sent again. Every sync renews the lease.
-- ARGV[2] session, epoch, sync (its number), confirmed (the number of the last one that was
--         answered, 0 for none), granted (number of the last grant it knows), room (free slots as of that grant),
--         version (of its limit table), ended [number...],
--         asks [[number, us since its gate, [limits], task id, task name]...],
--         interests (limits it holds idle or reused permits of, to hear whether they are contended),
--         full (true: a statement), held [[number, [limits], task id, task name, idle, fencing number, ms for which its
--         task has had it]...] (full, or newly covered)
--         and where there is something to say: source (a digest of the broker's identity), takes [queue...] (all that it
--         takes messages of there, when that has changed), growth (by how many slots its pool may still grow),
--         weak [[number, [queue...]]...] (requests whose turn came while it had no room, with the queues of the messages
--         that wait there; number 0: queues that it leaves alone, and would take up where nobody else has room)
-- Reply   {status: "ok", version, grants: [[grant number, number, fencing number, time of the grant (ms)]...],
--          recall: {contended limit: streak...}, offer, lease (its end, ms on the lease clock),
--          longest (the longest lease of any session that may live, ms),
--          expires: ms until another session's lease ends, grants go on, what was set for a time ends, or the lease clock
--          is to go on; table and overrides: where version differs,
--          elsewhere: of the queues in weak those that another session takes and has room for}
--         {status: "closed"}: no such session (its lease ran out, or data was lost): open a new one
--         {status: "stale"}: a later sync came first; nothing was changed
-- Cost    O(ended + asks + held + grants + takes + weak), each as core says
-- (As `expect` does, but for less: this is the script that is called all the time. A session that isn't open is told so.)
local function is_weak(row) return type(row) == 'table' and count(row[1]) and every(row[2], limit_name) end
local function may_be_left_out(it, kind) return it == nil or kind(it) end
if not (type(me) == 'string' and whole(asked.sync, 0, 9e15) and whole(asked.confirmed, 0, 9e15)
  and grant_number(asked.granted) and whole(asked.room, -9e15, 9e15) and whole(asked.version, -1, 9e15)
  and type(asked.full) == 'boolean' and every(asked.ended, count) and every(asked.interests, limit_name)
  and asks(asked.asks) and holdings(asked.held) and may_be_left_out(asked.growth, count)
  and (asked.takes == nil and asked.weak == nil or limit_name(asked.source) and every(asked.takes or {}, limit_name)
    and every(asked.weak or {}, is_weak))) then
  error('celery-gconc: not what this script takes')
end
if not epoch then return cjson.encode({ status = 'closed' }) end
begin()
local state = call('HMGET', SESSION, me .. ':sync', me .. ':room', me .. ':timeout', me .. ':interval')
if epoch == asked.epoch and state[1] and tonumber(state[1]) < asked.confirmed then
  -- What we answered is forgotten, on the same server: DEBUG RELOAD NOSAVE, or a restart where its id can't be read.
  begin_epoch(slowest() + MARGIN)
end
local status = (epoch ~= asked.epoch or not state[1]) and 'closed' or asked.sync <= tonumber(state[1]) and 'stale'
if status then
  finish()
  return cjson.encode({ status = status })
end
local lease = clock + tonumber(state[3])
call('ZADD', SESSIONS, int(lease), me)
call('HSET', SESSION, me .. ':sync', asked.sync, me .. ':seen', asked.version, me .. ':offered', '0')
if asked.takes then set_takes(me, asked.source, asked.takes) end
if asked.growth then call('HSET', SESSION, me .. ':growth', int(asked.growth)) end
local interests = {}

for _, number in ipairs(asked.ended) do remove(me .. ':' .. int(number)) end

if asked.full then
  local stated = {}
  for _, item in ipairs(asked.held) do stated[int(item[1])] = true end
  for _, item in ipairs(asked.asks) do stated[int(item[1])] = true end
  for _, member in ipairs(call('ZRANGEBYLEX', ROLL, '[' .. me .. ':', '(' .. me .. ';')) do
    local number_of_grant, number = string.match(member, ':(%d+):(.*)$')
    if not stated[number] and tonumber(number_of_grant) <= asked.granted then remove(me .. ':' .. number) end
  end
end

for _, item in ipairs(asked.held) do
  local id = me .. ':' .. int(item[1])
  local record = load(id)
  if record and record.g > 0 and table.concat(record.l, US) == table.concat(item[2], US) then
    if record.t ~= item[3] or record.i ~= item[5] then -- reused for another task, or idle
      record.t, record.n, record.i, record.s = item[3], item[4], item[5], now - item[7]
      save(id, record)
    end
  else
    if record then remove(id) end
    adopt(item, asked.granted)
  end
  for _, limit in ipairs(item[2]) do interests[limit] = true end
end

-- Room as stated, less the grants since the one it knows, as far as they still stand.
local before = tonumber(state[2])
set_room(me, asked.room
  - call('ZLEXCOUNT', ROLL, string.format('[%s:%012.0f:', me, asked.granted + 1), '(' .. me .. ';'))

settle()
serve_all()
if before <= 0 or asked.full then
  touch_waiting(me)
  serve_all()
end
for _, item in ipairs(asked.asks) do
  local id = me .. ':' .. int(item[1])
  local record = load(id)
  if record and record.g == 0 and table.concat(record.l, US) ~= table.concat(item[3], US) then
    remove(id)
    serve_all()
    record = nil
  end
  if not record then
    ask(id, item[3], item[2], item[4], item[5])
  elseif record.g == 0 and record.t ~= item[4] then -- another of its requests is at this place of its line by now
    record.t, record.n, record.w = item[4], item[5], arrival_of(item[2])
    save(id, record)
  end
  for _, limit in ipairs(item[3]) do interests[limit] = true end
end
local elsewhere = {}
for _, row in ipairs(asked.weak or {}) do
  local record = row[1] > 0 and load(me .. ':' .. int(row[1]))
  if row[1] == 0 or record and record.g == 0 and record.o then
    for _, queue in ipairs(row[2]) do
      if is_taken_elsewhere(asked.source, queue) then table.insert(elsewhere, queue) end
    end
  end
end
finish()

local grants = {}
for _, member in ipairs(call('ZRANGEBYLEX', ROLL,
  string.format('[%s:%012.0f:', me, asked.granted + 1), '(' .. me .. ';')) do
  local number_of_grant, number = string.match(member, ':(%d+):(.*)$')
  local record = load(me .. ':' .. number)
  table.insert(grants, { tonumber(number_of_grant), tonumber(number), record.f, record.s })
end
for _, limit in ipairs(asked.interests) do interests[limit] = true end
local reply = {
  status = 'ok', version = version, grants = grants, recall = recall(interests, me),
  offer = call('HGET', SESSION, me .. ':offered') == '1', lease = lease,
  longest = longest(),
}
local soonest = call('ZRANGE', SESSIONS, 0, 1, 'WITHSCORES')
for i = #soonest - 1, 1, -2 do
  if soonest[i] ~= me then reply.expires = math.max(tonumber(soonest[i + 1]) - clock, 0) end
end
if shut then reply.expires = math.min(reply.expires or math.huge, shut - clock) end
-- Where nobody calls often enough for the lease clock to go with the time (its least interval is a dead session's, say),
-- whoever waits does.
if reply.expires and now - (is_held and now or tonumber(meta[13]) or 0) <= tonumber(state[4]) then
  reply.expires = math.min(reply.expires, math.ceil(interval * 1.05))
end
if ends then reply.expires = math.min(reply.expires or math.huge, math.max(ends - now, 0)) end
if #elsewhere > 0 then reply.elsewhere = elsewhere end
if version ~= asked.version then reply.table, reply.overrides = limit_table(), overrides() end
return cjson.encode(reply)
