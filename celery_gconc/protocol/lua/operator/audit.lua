-- uses: input members limits overrides configs units wants lines heartbeats epochs reply
-- What doesn't fit together in the keys: no script of ours leaves any of it. With repair, take it away.
--
-- Guarantee: one instant. A repair removes units and wants of sessions that don't live, and what counts no units;
--         whoever waited for them is granted before the reply. What fits together is not touched.
-- ARGV[2] repair (boolean)
-- Reply   {status: "ok", findings: [{kind, member}...]} (kinds: "session", "units", "holder", "held", "want", "roll",
--         "waiter", "reserved", "grant", "taker", "heartbeat", "use", "unused", "value")
-- Cost    O(sessions + holders + waiters + configured values)
local asked, US = input.asked, members.US
local SESSION = key.session
input.expect({ repair = input.flag })
epochs.begin()
local findings = {}
local function found(kind, member) table.insert(findings, { kind = kind, member = member }) end
local function lives(sid) return sid and call('ZSCORE', key.sessions, sid) end
local function touch(limit)
  if asked.repair and limit then limits.touch(limit) end
end

-- Fields of a hash, and members of a set, that are not right.
local function look_at_fields(kind, hash, is_right)
  local fields = call('HGETALL', hash)
  for i = 1, #fields, 2 do
    if not is_right(fields[i], fields[i + 1]) then
      found(kind, fields[i])
      if asked.repair then call('HDEL', hash, fields[i]) end
    end
  end
end
local function look(kind, set, is_right)
  for _, member in ipairs(call('ZRANGE', set, 0, -1)) do
    if not is_right(member) then
      found(kind, member)
      if asked.repair then call('ZREM', set, member) end
      touch(string.match(member, '^([^' .. US .. ']+)' .. US))
    end
  end
end

local held, known = {}, {} -- by limit; by id
look_at_fields('units', key.units, function(member, count)
  local limit, sid = string.match(member, '^([^' .. US .. ']+)' .. US .. '(.*)$')
  count = tonumber(count)
  local is_right = lives(sid) and count and count > 0 and call('ZSCORE', key.holders, member)
    and call('ZSCORE', key.holders, US .. sid .. US .. limit)
  if is_right then held[limit] = (held[limit] or 0) + count else touch(limit) end
  return is_right
end)
look('holder', key.holders, function(member)
  local sid, limit = string.match(member, '^' .. US .. '(.-)' .. US .. '(.*)$')
  return call('HEXISTS', key.units, sid and limit .. US .. sid or member) == 1
end)
local counted = call('HGETALL', key.held)
for i = 1, #counted, 2 do held[counted[i]] = held[counted[i]] or 0 end
for limit, count in pairs(held) do
  if count ~= (tonumber(call('HGET', key.held, limit)) or 0) then
    found('held', limit)
    touch(limit)
    if asked.repair then units.set_held(limit, count) end
  end
end

local function is_record(record)
  return type(record) == 'table' and type(record.c) == 'table' and type(record.r) == 'table'
    and type(record.r[1]) == 'table' and type(record.k) == 'number'
end
look_at_fields('want', key.wants, function(id, text)
  local readable, record = pcall(cjson.decode, text)
  local is_right = readable and is_record(record) and lives(members.owner(id)) and call('ZSCORE', key.roll, id)
  if is_right then known[id] = record end
  return is_right
end)
look('roll', key.roll, function(id) return known[id] end)
local function stands(member, is_reserved)
  local limit, order = string.match(member, '^([^' .. US .. ']*)' .. US .. '(.*)$')
  local id = order and lines.id_at(order)
  local record = id and known[id]
  if not record or members.order_key(id, record) ~= order then return false end
  if is_reserved then return record.k >= constant.TURNS and wants.weight_on(record, limit) > 0 end
  return record.at == limit
end
look('waiter', key.waiters, stands)
look('waiter', key.turns, stands)
look('waiter', key.aside, function(member) return stands(string.match(member, US .. '(.*)$')) end)
look('reserved', key.reserved, function(member) return stands(member, true) end)
look('grant', key.grants, function(member) return lives(members.owner(member)) end)
look('taker', key.takers, function(member) return lives(string.match(member, US .. '([^' .. US .. ']*)$')) end)
look('heartbeat', key.heartbeats, function(member)
  local kind, ms, sid = string.match(member, '^(%a+' .. US .. ')(%d+)' .. US .. '(.*)$')
  local field = kind == heartbeats.INTERVAL and ':interval' or ':timeout'
  return lives(sid) and tonumber(ms) == tonumber(call('HGET', SESSION, sid .. field))
end)

-- What is missing of a configuration that sessions use, they send again: a statement of theirs finds out.
local function look_at_configs()
  local said = {}
  for _, sid in ipairs(call('ZRANGE', key.sessions, 0, -1)) do
    local digest = call('HGET', SESSION, sid .. ':config')
    said[digest or ''] = true
    if digest and not call('ZSCORE', key.uses, digest .. US .. sid) then
      found('use', digest .. US .. sid)
      if asked.repair then configs.enter(digest, sid) end
    end
  end
  for _, member in ipairs(call('ZRANGE', key.configured, 0, -1)) do
    local limit, _, digest, other = configs.read(member)
    if not (limit and call('ZSCORE', key.configured, other)) then
      found('value', member)
      if asked.repair then call('ZREM', key.configured, member) end
      if asked.repair and limit then overrides.refresh(limit) end
    elseif not (said[digest] or configs.is_used(digest) or call('ZSCORE', key.unused, digest)) then
      said[digest] = true
      found('unused', digest)
      if asked.repair then call('ZADD', key.unused, 0, digest) end
    end
  end
  for _, member in ipairs(call('ZRANGE', key.uses, 0, -1)) do
    local digest, sid = string.match(member, '^(.-)' .. US .. '(.*)$')
    if not (digest and lives(sid) and call('HGET', SESSION, sid .. ':config') == digest) then
      found('use', member)
      if asked.repair then call('ZREM', key.uses, member) end
      if asked.repair and digest then configs.leave(digest, sid) end
    end
  end
end
look_at_configs()
local seen = {}
for _, hash in ipairs({ SESSION, key.running }) do
  for _, field in ipairs(call('HKEYS', hash)) do
    local sid = members.owner(field) or field
    if not lives(sid) then
      if not seen[sid] then found('session', sid) end
      seen[sid] = true
      if asked.repair then call('HDEL', hash, field) end
    end
  end
end
if asked.repair then heartbeats.changed() end
reply.finish()
return cjson.encode({ status = 'ok', findings = findings })
