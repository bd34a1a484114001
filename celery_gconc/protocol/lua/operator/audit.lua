-- uses: input pages meta members limits overrides configs units hungry wants lines sums heartbeats epochs reply
-- What doesn't fit together in the keys: no script of ours leaves any of it. With repair, take it away.
--
-- Each record is looked at together with those that it must fit, in one script: so what changes between two pages is no
-- damage. A sum of many parts is added up in several: what changes meanwhile in those that were passed is added by whoever
-- changes it (META: audit; sums.lua). Where two audit at once, they add up the same one together, or one leaves it out.
--
-- Guarantee: what is amiss from the first page to the last is found, maybe twice. A repair removes units and wants of
--         sessions that don't live, and what counts no units; whoever waited for them is granted before the last reply.
--         What fits together is not touched.
-- ARGV[2] repair (boolean); after (null, or next of the page before)
-- Reply   {status: "ok", findings: [{kind, member}...] (kinds: "session", "units", "holder", "held", "want", "roll",
--         "waiter", "reserved", "hungry", "grant", "taker", "heartbeat", "idle", "sum", "use", "unused", "value"), next}
-- Cost    O(LOOKS)
local asked, US = input.asked, members.US
local phase, at, group = string.match(pages.after or '1 0 ', '^(%d%d?) (%d+) (.*)$')
input.expect({
  repair = input.flag,
  after = function(it) return pages.may_be_after(it) and phase ~= nil and #at < 20 end,
})
epochs.begin()
local findings, left = {}, constant.LOOKS / 2 -- a step of this is two or three of others
local function found(kind, member) table.insert(findings, { kind = kind, member = member }) end
local function lives(sid) return sid and call('ZSCORE', key.sessions, sid) end
local function touch(limit)
  if asked.repair and limit then limits.touch(limit) end
end
local function has(set, member) return call('ZSCORE', set, member) end
local function is_empty(set, from, to) return #call('ZRANGEBYLEX', set, from, to, 'LIMIT', 0, 1) == 0 end

-- -- What each record must fit ---------------------------------------------------------------------------

local function is_unit(member, count)
  local limit, sid = string.match(member, '^([^' .. US .. ']+)' .. US .. '(.*)$')
  count = tonumber(count)
  local is_right = lives(sid) and count and count > 0 and has(key.holders, member)
    and has(key.holders, US .. sid .. US .. limit)
  if not is_right then touch(limit) end
  return is_right
end
local function is_holder(member)
  local sid, limit = string.match(member, '^' .. US .. '(.-)' .. US .. '(.*)$')
  return call('HEXISTS', key.units, sid and limit .. US .. sid or member) == 1
end
local function is_held(limit)
  if not is_empty(key.holders, members.first(limit), members.last(limit)) then return true end
  touch(limit)
  if asked.repair then units.set_held(limit, 0) end
  return false
end
local function is_idle(member) return call('HEXISTS', key.units, member) == 1 end

local function is_record(record)
  return type(record) == 'table' and type(record.c) == 'table' and type(record.r) == 'table'
    and type(record.r[1]) == 'table' and type(record.k) == 'number'
end
local known = {} -- by id; false where it isn't right
local function want_of(id, text)
  if known[id] == nil then
    text = text or call('HGET', key.wants, id)
    local is_readable, record = pcall(cjson.decode, text or '')
    local is_right = is_readable and is_record(record) and lives(members.owner(id)) and has(key.roll, id)
    known[id] = is_right and record
  end
  return known[id]
end
local function is_want(id) return want_of(id) end
local function stands(member, is_reserved)
  local limit, order = string.match(member, '^([^' .. US .. ']*)' .. US .. '(.*)$')
  local id = order and lines.id_at(order)
  local record = id and want_of(id)
  if not record or members.order_key(id, record) ~= order then return false end
  if is_reserved then return record.k >= constant.TURNS and wants.weight_on(record, limit) > 0 end
  return record.at == limit and record
end
local function is_in_line(member) return stands(member) end
local function is_aside(member) return stands(string.match(member, US .. '(.*)$') or '') end
local function is_reserved(member) return stands(member, true) end

local function is_hungry(member)
  local sid, limit = string.match(member, '^' .. US .. '(.-)' .. US .. '(.-)' .. US)
  if not sid then -- under the limit: the other one says the same
    limit, sid = string.match(member, '^(.-)' .. US .. '.*' .. US .. '(.-)$')
  end
  return lives(sid) and hungry.is_right(sid, limit, member, units.of(sid, limit))
end

local function is_of_a_session(member) return lives(members.owner(member) or member) end
local function is_taker(member) return lives(string.match(member, US .. '([^' .. US .. ']*)$')) end
local function is_heartbeat(member)
  local kind, ms, sid = string.match(member, '^(%a+' .. US .. ')(%d+)' .. US .. '(.*)$')
  local field = kind == heartbeats.INTERVAL and ':interval' or ':timeout'
  return lives(sid) and tonumber(ms) == tonumber(call('HGET', key.session, sid .. field))
end
local function has_parts(field)
  local limit, what = string.match(field, '^([^' .. US .. ']*)(.*)$')
  if limit == '' then return not is_empty(key.roll, '[' .. string.sub(field, 2) .. ':', '(' .. string.sub(field, 2) .. ';') end
  if what == sums.PARKED or what == sums.BROKER then return call('EXISTS', key.sessions) == 1 end
  local set = what == sums.WAITING and key.waiters or key.holders
  return not is_empty(set, members.first(limit), members.last(limit))
end

-- What is missing of a configuration that sessions use, they send again: a statement of theirs finds out. The uses of
-- those that say what they are configured with come first, so that a repair takes no values that one of them has.
local function digest_said_by(sid) return call('HGET', key.session, sid .. ':config') end
local function look_at_use(sid)
  local digest = digest_said_by(sid)
  if digest and not has(key.uses, digest .. US .. sid) then
    found('use', digest .. US .. sid)
    if asked.repair then configs.enter(digest, sid) end
  end
  return true
end
local function is_use(member)
  local digest, sid = string.match(member, '^(.-)' .. US .. '(.*)$')
  return digest and lives(sid) and digest_said_by(sid) == digest
end
local function end_use(member)
  local digest, sid = string.match(member, '^(.-)' .. US .. '(.*)$')
  if digest then configs.leave(digest, sid) end
end
local counts = {} -- by digest: some session has it, or it goes in time
local function is_value(member)
  local limit, _, digest, other = configs.read(member)
  if not limit or not has(key.configured, other) then return false end
  if counts[digest] == nil then counts[digest] = configs.is_used(digest) or has(key.unused, digest) or false end
  if not counts[digest] then
    counts[digest] = true
    found('unused', digest)
    if asked.repair then call('ZADD', key.unused, 0, digest) end
  end
  return true
end
local function end_value(member)
  local limit = configs.read(member)
  if limit then overrides.refresh(limit) end
end

-- -- How to go through all of a kind ---------------------------------------------------------------------

-- (A hash that Redis keeps as a list, of at most 512 fields, comes as a whole.)
local SCANNED = math.ceil(constant.LOOKS / 8)
local function scan(kind, key_, is_right, is_set, removed)
  local command, remove = is_set and 'ZSCAN' or 'HSCAN', is_set and 'ZREM' or 'HDEL'
  return function()
    local next_at, fields = unpack(call(command, key_, at, 'COUNT', SCANNED))
    for i = 1, #fields, 2 do
      local member = fields[i]
      if not is_right(member, fields[i + 1]) then
        found(kind, kind == 'session' and (members.owner(member) or member) or member)
        if asked.repair then
          call(remove, key_, member)
          if removed then removed(member) end
        end
        if is_set then touch(string.match(member, '^([^' .. US .. ']+)' .. US)) end
      end
    end
    left = left - #fields
    return next_at ~= '0' and next_at or nil
  end
end
local function scan_set(kind, key_, is_right, removed) return scan(kind, key_, is_right, true, removed) end

-- Where an unfinished sum goes on: its group, the part that was added last, the sum. Where that isn't known any more, as
-- another audit has done it or has begun another one, this one goes on behind the group.
local function resume(what, behind)
  if at == '0' then return nil end
  if meta.audit ~= what .. group then return nil, behind(group) end
  local stands_at = call('HMGET', key.meta, 'audited_to', 'audited')
  return group, '(' .. stands_at[1], tonumber(stands_at[2])
end

-- Add up the parts of each group, which stand together in a sorted set, and see what is told of them.
local function add_up(it)
  return function()
    local current, from, sum = resume(it.what, it.behind)
    from = from or it.from
    local function close()
      if not current or it.told(current) == sum then return end
      found(it.kind, it.what == 'held' and current or it.field(current))
      touch(it.kind == 'held' and current)
      if asked.repair then it.tell(current, sum) end
    end
    local asked_for = math.max(math.floor(left / it.steps), 1)
    local parts = call('ZRANGEBYLEX', it.set, from, '+', 'LIMIT', 0, asked_for)
    for _, member in ipairs(parts) do
      local owner = it.group_of(member)
      if owner ~= current then
        close()
        current, sum = owner, 0
      end
      sum = sum + it.count(member)
    end
    left = left - it.steps * #parts
    if #parts < asked_for then
      close()
      call('HDEL', key.meta, 'audit', 'audited_to', 'audited')
      meta.audit = nil
      return nil
    end
    group = current
    meta.audit = it.what .. current
    call('HSET', key.meta, 'audit', meta.audit, 'audited_to', parts[#parts], 'audited', members.int(sum))
    return '1'
  end
end

local function limit_of(member) return string.match(member, '^([^' .. US .. ']*)') end
local function count_of(member)
  local sid = string.match(member, US .. '(.*)$')
  return lives(sid) and tonumber(call('HGET', key.units, member)) or 0
end
local function sum_of(what, set, from, count)
  local function field(limit) return limit .. what end
  local function behind(limit) return '[' .. limit .. members.AFTER end
  return {
    what = what, kind = 'sum', steps = 2, set = set, from = from, group_of = limit_of, count = count, field = field,
    behind = behind,
    told = function(limit) return tonumber(call('HGET', key.sums, field(limit))) or 0 end,
    tell = function(limit, sum) sums.set(field(limit), sum) end,
  }
end
local LIMITS_FIRST = '[' .. members.AFTER -- in HOLDERS, behind those by session
local held = sum_of('held', key.holders, LIMITS_FIRST, count_of)
held.kind, held.told, held.tell = 'held', units.held, units.set_held
local idle = sum_of(sums.IDLE, key.holders, LIMITS_FIRST, function(member)
  return tonumber(call('HGET', key.idle, member)) or 0
end)
local in_line = sum_of(sums.WAITING, key.waiters, '-', function(member)
  local record = stands(member)
  return record and #record.r or 0
end)
local of_session = sum_of('session', key.roll, '-', function(id)
  local record = want_of(id)
  return record and record.at and #record.r or 0
end)
in_line.steps, of_session.steps = 5, 5 -- to read a want is more
of_session.group_of, of_session.behind = members.owner, function(sid) return '[' .. sid .. ';' end
of_session.told = function(sid) return tonumber(call('HGET', key.sums, US .. sid)) or 0 end
of_session.field = function(sid) return US .. sid end
of_session.tell = function(sid, sum) sums.set(US .. sid, sum) end

local PHASES = {
  scan('units', key.units, is_unit), scan_set('holder', key.holders, is_holder), scan('held', key.held, is_held),
  add_up(held), scan('want', key.wants, want_of), scan_set('roll', key.roll, is_want),
  scan_set('waiter', key.waiters, is_in_line), scan_set('waiter', key.turns, is_in_line),
  scan_set('waiter', key.aside, is_aside), scan_set('reserved', key.reserved, is_reserved), scan_set('hungry', key.hungry, is_hungry),
  scan_set('grant', key.grants, is_of_a_session), scan_set('taker', key.takers, is_taker),
  scan_set('heartbeat', key.heartbeats, is_heartbeat), scan('session', key.session, is_of_a_session),
  scan('session', key.running, is_of_a_session), scan('idle', key.idle, is_idle), add_up(idle), add_up(in_line),
  add_up(of_session), scan('sum', key.sums, has_parts), scan_set('use', key.sessions, look_at_use),
  scan_set('use', key.uses, is_use, end_use), scan_set('value', key.configured, is_value, end_value),
}
phase = tonumber(phase)
while PHASES[phase] and left > 0 do
  local next_at = PHASES[phase]()
  if next_at then
    at = next_at
  else
    phase, at, group = phase + 1, '0', ''
  end
end
if asked.repair then heartbeats.changed() end
reply.finish()
local is_done = not PHASES[phase]
return cjson.encode({
  status = 'ok', findings = findings, next = not is_done and table.concat({ phase, at, group }, ' ') or nil,
})
