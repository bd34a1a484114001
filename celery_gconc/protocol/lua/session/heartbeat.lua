-- uses: input meta server time clock members units grants running rooms heartbeats
-- A session lives on, and all that it has told still holds, but for what it says here. It is cheap, for most
-- heartbeats are such: a statement (sync.lua) is made where anything else is to be said or done, and once a minute.
--
-- Guarantee: it goes on from the last sync that was answered, or changes nothing at all. So where it is answered "ok", Redis
-- has just what the session has told, in that sync and before, and has granted nothing since.
-- doesn't begin: where a script has anything to begin with, this one leaves it to the statement
-- ARGV[2] session, epoch, sync, confirmed, granted, room, version, growth as in sync.lua;
--         running and idle as there, where they have changed: idle is whole, and {} where no unit is idle any more
-- Reply   {status: "ok", lease, longest as in sync.lua}
--         {status: "more"}: nothing was changed; make a statement
-- Cost    O(log(sessions)); with what is contended anywhere, O(units)
local int, asked, me = members.int, input.asked, input.me
local whole = input.whole
if not (type(me) == 'string' and type(asked.epoch) == 'string' and whole(asked.sync, 0, 9e15)
  and whole(asked.confirmed, 0, 9e15) and input.grant_number(asked.granted) and whole(asked.room, -9e15, 9e15)
  and whole(asked.version, -1, 9e15) and (asked.growth == nil or input.count(asked.growth))
  and (asked.running == nil or type(asked.running) == 'string')
  and (asked.idle == nil or input.by_limit(asked.idle, input.count))) then
  error('celery-gconc: not what this script takes')
end

-- Is there something that other scripts do before or after their own work? Then this session is not all there is to it.
local function is_anything_due()
  if meta.epoch ~= asked.epoch or meta.closed_until or meta.served_to or meta.all_settle or meta.untold > 0
    or meta.version ~= asked.version or meta.next_override_end and time.now >= meta.next_override_end
    or meta.over_until and clock.at < meta.over_until or server.id and server.id ~= meta.server_id
    or call('EXISTS', key.todo, key.settling, key.gone, key.unused) > 0 then
    return true
  end
  local first = call('ZRANGE', key.sessions, 0, 0, 'WITHSCORES')
  return not first[2] or tonumber(first[2]) <= clock.at
end

-- Does anybody else wait for what it has units of?
local function is_recalled()
  if call('EXISTS', key.contended) == 0 then return false end
  for _, flag in ipairs(members.fields(key.contended, units.limits_of(me))) do
    if flag and flag ~= me then return true end
  end
  return false
end

local known = call('HMGET', key.session, me .. ':sync', me .. ':granted', me .. ':room', me .. ':timeout', me .. ':offered',
  me .. ':aside')
local function has_told_all()
  return tonumber(known[1]) == asked.confirmed and asked.sync > asked.confirmed and tonumber(known[2]) == asked.granted
    and not known[5] and not known[6]
end

if is_anything_due() or not has_told_all() or is_recalled() then return cjson.encode({ status = 'more' }) end
clock.save()
local lease = clock.at + tonumber(known[4])
call('ZADD', key.sessions, int(lease), me)
call('HSET', key.session, me .. ':sync', asked.sync)
if asked.room ~= tonumber(known[3]) then rooms.set(me, asked.room) end
if asked.growth then call('HSET', key.session, me .. ':growth', int(asked.growth)) end
if asked.running then
  running.state(me, asked.running)
  grants.forget_to(me, asked.granted)
end
if asked.idle then
  units.state_idle(me, asked.idle)
  if next(asked.idle) then call('HSET', key.session, me .. ':idle', '1') else call('HDEL', key.session, me .. ':idle') end
end
return cjson.encode({ status = 'ok', lease = lease, longest = heartbeats.longest_lease() })
