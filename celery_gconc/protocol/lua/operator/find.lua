-- uses: input time members wants running rooms lines sessions epochs reply
-- Where a task is, looked for in a part of the keys at each call: it waits for units, or runs with them.
--
-- Guarantee: what was there from the first call (cursor "0") to the last (cursor "0" replied) is found; what is found by
--         two calls is to be taken once, by its number.
-- ARGV[2] task (its id, as far as Redis keeps it), cursor
-- Reply   {status: "ok", cursor, found: [{number, session, node, id, task, claims, waits, span (ms
--         for which it has waited or run), line and position (of a waiter), room (of its session), full: [limit...]}...]}
-- Cost    O(requests and tasks of 100 sessions), and O(requests before it) for each one found that waits
local asked = input.asked
local SCANNED = 100 -- how many fields are looked at, about
local WANTS, RUNNING, GRANTS = 'w', 'r', 'g' -- what is looked at, in this order, with the cursor there
local function cursor(it) return input.short(it) and string.find(it, '^[wrg]?%d+$') ~= nil end
input.expect({ task = input.short, cursor = cursor })
epochs.begin()
reply.finish()

local found = {}
local function add(sid, item)
  item.session, item.node, item.room, item.full = sid, sessions.node_of(sid), rooms.of(sid), item.full or {}
  item.number = table.concat({ sid, item.waits and 'waits' or 'runs', item.id }, ' ')
  table.insert(found, item)
end

-- Where a request stands among all of its line, as waiting.lua has it.
local function position_of(limit, own_order)
  local before, arrival = 0, string.sub(own_order, 1, 16)
  local to = '(' .. limit .. members.US .. arrival .. members.AFTER
  for _, member in ipairs(call('ZRANGEBYLEX', key.waiters, members.first(limit), to)) do
    local id = lines.id_at(string.sub(member, #limit + 2))
    for number, request in ipairs(wants.load(id).r) do
      if wants.order_of(id, number, request) < own_order then before = before + 1 end
    end
  end
  return before + 1
end

local function look_at_want(id, record)
  local order = members.order_key(id, record)
  for number, request in ipairs(record.r) do
    if request[2] == asked.task then
      local item = { id = request[2], task = request[3], claims = record.c, waits = true, span = wants.waited(request) }
      item.line, item.full = record.at, {}
      item.position = position_of(record.at, wants.order_of(id, number, request))
      for _, claim in ipairs(record.c) do
        if not lines.has_free(claim[1], claim[2], order) then table.insert(item.full, claim[1]) end
      end
      add(members.owner(id), item)
    end
  end
end

local function look_at_run(sid, run)
  if run.id ~= asked.task then return end
  add(sid, {
    id = run.id, task = run.task, claims = run.claims, waits = false, span = math.max(time.now - run.since, 0),
  })
end

local phase, at = string.match(asked.cursor, '^(%a?)(%d+)$')
local next_at, fields
if phase == '' or phase == WANTS then
  next_at, fields = unpack(call('HSCAN', key.wants, at, 'COUNT', SCANNED))
  for i = 1, #fields, 2 do look_at_want(fields[i], cjson.decode(fields[i + 1])) end
  next_at = next_at == '0' and RUNNING .. '0' or WANTS .. next_at
elseif phase == RUNNING then
  next_at, fields = unpack(call('HSCAN', key.running, at, 'COUNT', SCANNED))
  for i = 1, #fields, 2 do
    for _, run in ipairs(running.stated(fields[i], fields[i + 1])) do look_at_run(fields[i], run) end
  end
  next_at = next_at == '0' and GRANTS .. '0' or RUNNING .. next_at
else
  next_at, fields = unpack(call('ZSCAN', key.grants, at, 'COUNT', SCANNED))
  for i = 1, #fields, 2 do
    local sid, row = string.match(fields[i], '^([^:]*):%d+:(.*)$')
    look_at_run(sid, running.granted(cjson.decode(row)))
  end
  if next_at ~= '0' then next_at = GRANTS .. next_at end
end
return cjson.encode({ status = 'ok', cursor = next_at, found = found })
