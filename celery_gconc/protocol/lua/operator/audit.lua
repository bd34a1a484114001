-- uses: input members limits heartbeats epochs reply
-- What doesn't fit together in the keys: no script of ours leaves any of it. With repair, take it away.
--
-- Guarantee: one instant. A repair removes requests and permits of sessions that don't live, and permits that no request
--         has; whoever waited for them is granted before the reply. What fits together is not touched.
-- ARGV[2] repair (boolean)
-- Reply   {status: "ok", findings: [{kind, member}...]} (kinds: "session", "request", "roll", "holder", "waiter",
--         "reserved", "taker", "heartbeat")
-- Cost    O(holders + waiters)
local asked, US = input.asked, members.US
local SESSION = key.session
input.expect({ repair = input.flag })
epochs.begin()
local findings = {}
local function found(kind, member) table.insert(findings, { kind = kind, member = member }) end
local function lives(sid) return sid and call('ZSCORE', key.sessions, sid) end

local known = {} -- by id
local dead, requests = {}, call('HGETALL', key.requests)
for i = 1, #requests, 2 do
  local id = requests[i]
  local readable, record = pcall(cjson.decode, requests[i + 1])
  local sid = members.owner(id)
  if not readable or type(record) ~= 'table' or type(record.c) ~= 'table' or type(record.g) ~= 'number'
    or not lives(sid) or not call('ZSCORE', key.roll, members.roll_member(id, record.g)) then
    found('request', id)
    table.insert(dead, id)
  else
    known[id] = record
  end
end

local function look(kind, set, is_right)
  for _, member in ipairs(call('ZRANGE', set, 0, -1)) do
    if not is_right(member) then
      found(kind, member)
      if asked.repair then
        call('ZREM', set, member)
        local limit = string.match(member, '^([^' .. US .. ']*)' .. US)
        if limit then limits.touch(limit) end
      end
    end
  end
end
local function covers(record, limit)
  for _, claim in ipairs(record.c) do
    local name = claim[1]
    if name == limit then return true end
  end
  return false
end
for _, id in ipairs(dead) do
  if asked.repair then call('HDEL', key.requests, id) end
end
look('roll', key.roll, function(member)
  local sid, granted_as, number = string.match(member, '^([^:]*):(%d+):(.*)$')
  local record = sid and known[sid .. ':' .. number]
  return record and record.g == tonumber(granted_as)
end)
look('holder', key.holders, function(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g > 0 and covers(record, limit)
end)
local function waits(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '%d+' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g == 0 and record.at == limit
end
look('waiter', key.waiters, waits)
look('waiter', key.turns, waits)
look('waiter', key.aside, function(member) return waits(string.match(member, US .. '(.*)$')) end)
look('reserved', key.reserved, function(member)
  local limit, id = string.match(member, '^([^' .. US .. ']*)' .. US .. '%d+' .. US .. '(.*)$')
  local record = id and known[id]
  return record and record.g == 0 and record.k >= constant.TURNS and covers(record, limit)
end)
look('taker', key.takers, function(member) return lives(string.match(member, US .. '([^' .. US .. ']*)$')) end)
look('heartbeat', key.heartbeats, function(member)
  local kind, ms, sid = string.match(member, '^(%a+' .. US .. ')(%d+)' .. US .. '(.*)$')
  local field = kind == heartbeats.INTERVAL and ':interval' or ':timeout'
  return lives(sid) and tonumber(ms) == tonumber(call('HGET', SESSION, sid .. field))
end)
local seen, fields = {}, call('HKEYS', SESSION)
for _, field in ipairs(fields) do
  local sid = members.owner(field)
  if not lives(sid) then
    if not seen[sid or field] then found('session', sid or field) end
    seen[sid or field] = true
    if asked.repair then call('HDEL', SESSION, field) end
  end
end
if asked.repair then heartbeats.changed() end
reply.finish()
return cjson.encode({ status = 'ok', findings = findings })
