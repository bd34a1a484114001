-- uses: input members wants lines sessions epochs reply
-- Which tasks stand in a limit's line, in order.
--
-- Guarantee: one instant; dead sessions are reclaimed first. A request stands in the line of one full limit at a time.
--         Which of its own requests stands at which of its positions, a session tells with its heartbeats.
-- ARGV[2] limit; count: how many at most
-- Reply   {status: "ok", waiting: [{session, node, id, task, position, waited (ms), claims}...]}
-- Cost    O(log(wants) + count x the requests of a want)
local asked = input.asked
input.expect({ limit = input.limit_name, count = function(it) return input.whole(it, 1, 1e9) end })
epochs.begin()
reply.finish()
-- The first so many are all of the first so many wants.
local waiting = {}
local line = call('ZRANGEBYLEX', key.waiters, members.first(asked.limit), members.last(asked.limit), 'LIMIT', 0,
  asked.count)
for _, member in ipairs(line) do
  local id = lines.id_at(string.sub(member, #asked.limit + 2))
  local sid, record = members.owner(id), wants.load(id)
  for number, request in ipairs(record.r) do
    table.insert(waiting, {
      session = sid, node = sessions.node_of(sid), id = request[2], task = request[3], claims = record.c,
      waited = wants.waited(request), order = wants.order_of(id, number, request),
    })
  end
end
table.sort(waiting, function(one, other) return one.order < other.order end)
for i = #waiting, asked.count + 1, -1 do waiting[i] = nil end
for position, waiter in ipairs(waiting) do waiter.position, waiter.order = position, nil end
return cjson.encode({ status = 'ok', waiting = waiting })
