-- uses: input time members permits rooms lines sessions epochs reply
-- Where a task is among the requests, a part of them at each call: it waits for a permit, or holds one.
--
-- Guarantee: what was there from the first call (cursor "0") to the last (cursor "0" replied) is found; a request that
--         is found by two calls is to be taken once, by its number.
-- ARGV[2] task (its id, as far as Redis keeps it), cursor
-- Reply   {status: "ok", cursor, found: [{number (<session>:<number>), session, node, id, task, claims, waits, span (ms
--         for which it has waited or held), line and position (of a waiter), room (of its session), full: [limit...]}...]}
-- Cost    O(1000), and O(log(waiters)) for each one found
local asked = input.asked
local function cursor(it) return input.short(it) and string.find(it, '^%d+$') ~= nil end
input.expect({ task = input.short, cursor = cursor })
epochs.begin()
reply.finish()

local function where(id, record)
  local sid = members.owner(id)
  local item = {
    number = id, session = sid, node = sessions.node_of(sid), id = record.t, task = record.n or '', claims = record.c,
    waits = record.g == 0, room = rooms.of(sid), full = {},
  }
  if not item.waits then
    item.span = math.max(time.now - record.s, 0)
    return item
  end
  local order = members.order_key(id, record)
  item.span = permits.waited(record)
  item.line = record.at
  item.position = call('ZLEXCOUNT', key.waiters, members.first(record.at),
    '(' .. record.at .. members.US .. order) + 1
  for _, claim in ipairs(record.c) do
    local limit = claim[1]
    if not lines.has_free(limit, order) then table.insert(item.full, limit) end
  end
  return item
end

local found = {}
local next_cursor, fields = unpack(call('HSCAN', key.requests, asked.cursor, 'COUNT', 1000))
for i = 1, #fields, 2 do
  local record = cjson.decode(fields[i + 1])
  if record.t == asked.task and record.i ~= 1 then table.insert(found, where(fields[i], record)) end
end
return cjson.encode({ status = 'ok', cursor = next_cursor, found = found })
