-- uses: input members permits sessions epochs reply
-- Which tasks stand in a limit's line, in order.
--
-- Guarantee: one instant; dead sessions are reclaimed first. A request stands in the line of one full limit at a time.
--         Which of its own requests stands at which of its positions, a session tells with its heartbeats.
-- ARGV[2] limit; count: how many at most
-- Reply   {status: "ok", waiting: [{session, node, id, task, position, waited (ms), claims}...]}
-- Cost    O(log(waiters) + count)
local asked = input.asked
input.expect({ limit = input.limit_name, count = function(it) return input.whole(it, 1, 1e9) end })
epochs.begin()
reply.finish()
local waiting = {}
local line = call('ZRANGEBYLEX', key.waiters, members.first(asked.limit), members.last(asked.limit), 'LIMIT', 0,
  asked.count)
for position, member in ipairs(line) do
  local id = string.match(string.sub(member, #asked.limit + 2), members.US .. '(.*)$')
  local record = permits.load(id)
  if record then
    table.insert(waiting, {
      session = members.owner(id), node = sessions.node_of(members.owner(id)), id = record.t or '',
      task = record.n or '', position = position,
      waited = permits.waited(record), claims = record.c,
    })
  end
end
return cjson.encode({ status = 'ok', waiting = waiting })
