-- uses: input pages members wants lines sessions epochs reply
-- Which tasks stand in a limit's line, by the first request of each want.
--
-- Guarantee: one instant for those of one page; dead sessions are reclaimed first. A request stands in the line of one full
--         limit at a time. Which of its own requests stands at which of its positions, a session tells with its
--         heartbeats. All that come before `to` are in the pages up to it.
-- ARGV[2] limit; after (null, or next of the page before)
-- Reply   {status: "ok", waiting: [{session, node, id, task, order (a text), waited (ms), claims}...], next, to}
-- Cost    O(log(wants) + SIZE requests, and those of one want)
local asked = input.asked
local limit = asked.limit
input.expect({ limit = input.limit_name, after = pages.may_be_after })
epochs.begin()
reply.finish()
local waiting, next_at, to = {}, nil, nil
local from = pages.after and '(' .. limit .. members.US .. pages.after or members.first(limit)
for i, member in ipairs(call('ZRANGEBYLEX', key.waiters, from, members.last(limit), 'LIMIT', 0, pages.SIZE)) do
  local order = string.sub(member, #limit + 2)
  local id = lines.id_at(order)
  local sid, record = members.owner(id), wants.load(id)
  for number, request in ipairs(record and record.r or {}) do
    table.insert(waiting, {
      session = sid, node = sessions.node_of(sid), id = request[2], task = request[3], claims = record.c,
      waited = wants.waited(request), order = wants.order_of(id, number, request),
    })
  end
  if #waiting >= pages.SIZE or i == pages.SIZE then
    next_at, to = order, string.match(order, '^%d+')
    break
  end
end
return cjson.encode({ status = 'ok', waiting = waiting, next = next_at, to = to })
