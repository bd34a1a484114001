-- uses: input pages time members wants running rooms lines sessions epochs reply
-- Where a task is, looked for in a part of the keys at each call: it waits for units, or runs with them.
--
-- Guarantee: what was there from the first page to the last is found; what is found in two is to be taken once, by its
--         number.
-- ARGV[2] task (its id, as far as Redis keeps it); after (null, or next of the page before)
-- Reply   {status: "ok", found: [{number, session, node, id, task, claims, waits, span (ms for which it has waited or run),
--          line and order (of a waiter: where waiting.lua has it), room (of its session), full: [limit...]}...], next}
-- Cost    O(SIZE sessions' requests and tasks)
local asked = input.asked
local WANTS, RUNNING, GRANTS = 'w', 'r', 'g' -- what is looked at, in this order, with the cursor there
local function is_after(it)
  return pages.may_be_after(it) and (pages.after == nil or string.find(pages.after, '^[wrg]%d+$') ~= nil and #pages.after < 20)
end
input.expect({ task = input.short, after = is_after })
epochs.begin()
reply.finish()

local found = {}
local function add(sid, item)
  item.session, item.node, item.room, item.full = sid, sessions.node_of(sid), rooms.of(sid), item.full or {}
  item.number = table.concat({ sid, item.waits and 'waits' or 'runs', item.id }, ' ')
  table.insert(found, item)
end

-- May a text that is JSON name the task? (No need to read it all, unless its id may be written in several ways.)
local is_plain = not string.find(asked.task, '[^%w_.:-]')
local function may_name_it(text) return not is_plain or string.find(text, asked.task, 1, true) end

local function look_at_want(id, text)
  if not may_name_it(text) then return end
  local record = cjson.decode(text)
  local own_order = members.order_key(id, record)
  for number, request in ipairs(record.r) do
    if request[2] == asked.task then
      local item = { id = request[2], task = request[3], claims = record.c, waits = true, span = wants.waited(request) }
      item.line, item.order, item.full = record.at, wants.order_of(id, number, request), {}
      for _, claim in ipairs(record.c) do
        if not lines.has_free(claim[1], claim[2], own_order) then table.insert(item.full, claim[1]) end
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

local function look_at_session(sid, text)
  if not may_name_it(text) then return end
  for _, run in ipairs(running.stated(sid, text)) do look_at_run(sid, run) end
end

local function look_at_grant(member)
  if not may_name_it(member) then return end
  local sid, row = string.match(member, '^([^:]*):%d+:(.*)$')
  look_at_run(sid, running.granted(cjson.decode(row)))
end

local PLACES = {
  [WANTS] = { 'HSCAN', key.wants, look_at_want, RUNNING },
  [RUNNING] = { 'HSCAN', key.running, look_at_session, GRANTS },
  [GRANTS] = { 'ZSCAN', key.grants, look_at_grant },
}
local phase, at = string.match(pages.after or WANTS .. '0', '^(%a)(%d+)$')
local command, where, look, following = unpack(PLACES[phase])
local next_at, fields = unpack(call(command, where, at, 'COUNT', pages.SIZE * (is_plain and 2 or 1)))
for i = 1, #fields, 2 do look(fields[i], fields[i + 1]) end
if next_at ~= '0' then next_at = phase .. next_at else next_at = following and following .. '0' end
return cjson.encode({ status = 'ok', found = found, next = next_at })
