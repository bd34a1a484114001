-- Where a task is among the requests, a part of them at each call: it waits for a permit, or holds one.
--
-- Guarantee: what was there from the first call (cursor "0") to the last (cursor "0" replied) is found; a request that
--         is found by two calls is to be taken once, by its number.
-- ARGV[2] task (its id, as far as Redis keeps it), cursor
-- Reply   {status: "ok", cursor, found: [{number (<session>:<number>), session, node, id, task, limits, waits, span (ms
--         for which it has waited or held), line and place (of a waiter), room (of its session), full: [limit...]}...]}
-- Cost    O(1000), and O(log(waiters)) for each one found
expect({ task = short, cursor = function(it) return short(it) and string.find(it, '^%d+$') ~= nil end })
begin()
finish()
local found = {}
local cursor, pairs_ = unpack(call('HSCAN', REQUESTS, asked.cursor, 'COUNT', 1000))
for i = 1, #pairs_, 2 do
  local id, record = pairs_[i], cjson.decode(pairs_[i + 1])
  if record.t == asked.task and record.i ~= 1 then
    local sid, place = owner(id), place_of(id, record)
    local item = {
      number = id, session = sid, node = node_of(sid), id = record.t, task = record.n or '', limits = record.l,
      waits = record.g == 0, room = room(sid), full = {},
    }
    if item.waits then
      item.span = waited(record)
      item.line = record.at
      item.place = call('ZLEXCOUNT', WAITERS, first(record.at), '(' .. record.at .. US .. place) + 1
      for _, limit in ipairs(record.l) do
        if not has_place(limit, place) then table.insert(item.full, limit) end
      end
    else
      item.span = math.max(now - record.s, 0)
    end
    table.insert(found, item)
  end
end
return cjson.encode({ status = 'ok', cursor = cursor, found = found })
