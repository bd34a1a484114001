-- Begin a session, with what it is configured with and what it runs already.
--
-- Guarantee: its holdings count before anyone is granted another permit; where they exceed a max, that drains.
-- ARGV[2] session, known (the epoch that the session's worker lived in before, or ''), epoch (a new one, used when
--         there is none), interval and timeout (ms), info (node, pid, app,
--         broker...), config (limit -> max), room, held ([number, [limits], task id, task name]...), version of the
--         limit table that held goes by (-1: the session runs nothing, so it goes by any)
-- Reply   {status: "ok", epoch, version, table, strangers: [node...]}; what it holds has grant number 1
--         {status: "refused", interval, timeout, node}: the live sessions have other heartbeat settings
-- Cost    O(limits configured x sessions)
begin()
local live = call('ZRANGE', SESSIONS, 0, -1)
local interval, timeout = unpack(call('HMGET', META, 'interval', 'timeout'))
if #live > 0 and (tonumber(interval) ~= asked.interval or tonumber(timeout) ~= asked.timeout) then
  finish()
  local info = cjson.decode(call('HGET', SESSION, live[1] .. ':info') or '{}')
  return cjson.encode({ status = 'refused', interval = tonumber(interval), timeout = tonumber(timeout), node = info.node })
end
-- A session that lived in another epoch, and states what it runs, tells that data was lost: nobody is granted
-- anything until every session that may still live has restated or run out.
local lost = asked.known ~= '' and asked.known ~= epoch
if lost and asked.version >= 0 then
  shut = clock + asked.timeout
  call('HSET', META, 'shut', int(shut))
end
if not epoch then
  epoch = asked.epoch
  call('HSET', META, 'epoch', epoch, 'clock', int(clock), 'time', int(now))
end
call('HSET', META, 'interval', int(asked.interval), 'timeout', int(asked.timeout))

local strangers = {}
for _, sid in ipairs(live) do
  local info = cjson.decode(call('HGET', SESSION, sid .. ':info') or '{}')
  if info.app ~= asked.info.app or info.broker ~= asked.info.broker then table.insert(strangers, info.node) end
end

call('ZADD', SESSIONS, int(clock + asked.timeout), me)
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
call('HSET', SESSION, me .. ':seen', asked.version < 0 and version or lost and 0 or asked.version)
finish()
return cjson.encode({
  status = 'ok', epoch = epoch, version = version, table = limit_table(), strangers = strangers,
})
