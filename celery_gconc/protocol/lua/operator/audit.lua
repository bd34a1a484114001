-- What doesn't fit together in the keys: no script of ours leaves any of it. With repair, take it away.
--
-- Guarantee: one instant. A repair removes requests and places of sessions that don't live, and places that no request
--         has; whoever waited for them is granted before the reply. What fits together is not touched.
-- ARGV[2] repair (boolean)
-- Reply   {status: "ok", findings: [{kind, member}...]} (kinds: "session", "request", "roll", "holder", "waiter",
--         "reserved", "taker", "heartbeat")
-- Cost    O(holders + waiters)
expect({ repair = flag })
begin()
local findings = {}
local function found(kind, member) table.insert(findings, { kind = kind, member = member }) end
local function lives(sid) return sid and call('ZSCORE', SESSIONS, sid) end

local known = {} -- by id
local dead, pairs_ = {}, call('HGETALL', REQUESTS)
for i = 1, #pairs_, 2 do
  local id = pairs_[i]
  local readable, record = pcall(cjson.decode, pairs_[i + 1])
  local sid = owner(id)
  if not readable or type(record) ~= 'table' or type(record.l) ~= 'table' or type(record.g) ~= 'number'
    or not lives(sid) or not call('ZSCORE', ROLL, roll_member(id, record.g)) then
    found('request', id)
    table.insert(dead, id)
  else
    known[id] = record
  end
end

local function look(kind, key, is_right)
  for _, member in ipairs(call('ZRANGE', key, 0, -1)) do
    if not is_right(member) then
      found(kind, member)
      if asked.repair then
        call('ZREM', key, member)
        local limit = string.match(member, '^([^' .. US .. ']*)' .. US)
        if limit then touch(limit) end
      end
    end
  end
end
local function covers(record, limit)
  for _, name in ipairs(record.l) do
    if name == limit then return true end
  end
  return false
end
for _, id in ipairs(dead) do
  if asked.repair then call('HDEL', REQUESTS, id) end
end
look('roll', ROLL, function(member)
  local sid, granted_as, number = string.match(member, '^([^:]*):(%d+):(.*)$')
  local record = sid and known[sid .. ':' .. number]
  return record and record.g == tonumber(granted_as)
end)
look('holder', HOLDERS, function(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g > 0 and covers(record, limit)
end)
look('waiter', WAITERS, function(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '%d+' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g == 0 and record.at == limit
end)
look('reserved', RESERVED, function(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '%d+' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g == 0 and record.k >= TURNS and covers(record, limit)
end)
look('taker', TAKERS, function(member) return lives(string.match(member, US .. '([^' .. US .. ']*)$')) end)
look('heartbeat', HEARTBEATS, function(member)
  local kind, ms, sid = string.match(member, '^(%a+' .. US .. ')(%d+)' .. US .. '(.*)$')
  local field = kind == INTERVAL and ':interval' or ':timeout'
  return lives(sid) and tonumber(ms) == tonumber(call('HGET', SESSION, sid .. field))
end)
local told, fields = {}, call('HKEYS', SESSION)
for _, field in ipairs(fields) do
  local sid = owner(field)
  if not lives(sid) then
    if not told[sid or field] then found('session', sid or field) end
    told[sid or field] = true
    if asked.repair then call('HDEL', SESSION, field) end
  end
end
if asked.repair then look_at_heartbeats() end
finish()
return cjson.encode({ status = 'ok', findings = findings })
