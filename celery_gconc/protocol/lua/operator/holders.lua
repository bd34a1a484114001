-- uses: input members permits sessions epochs reply
-- Which tasks hold a permit under a limit, as far as their sessions have told.
--
-- Guarantee: one instant; dead sessions are reclaimed first. A permit that passed from one task to the next within a
--         worker is shown with the earlier one until that worker's next heartbeat.
-- ARGV[2] limit; count: how many holders at most
-- Reply   {status: "ok", holders: [{session, node, id, task, since (wall time, ms), claims}...]}, without idle ones,
--         those that have held it for longest first
-- Cost    O(holders of the limit)
local asked = input.asked
input.expect({ limit = input.limit_name, count = function(it) return input.whole(it, 1, 1e9) end })
epochs.begin()
reply.finish()
local holders = {}
for _, member in ipairs(call('ZRANGEBYLEX', key.holders, members.first(asked.limit), members.last(asked.limit))) do
  local id = string.sub(member, #asked.limit + 2)
  local record = permits.load(id)
  if record and record.i ~= 1 then
    table.insert(holders, {
      session = members.owner(id), node = sessions.node_of(members.owner(id)), id = record.t or '',
      task = record.n or '', since = record.s,
      claims = record.c,
    })
  end
end
table.sort(holders, function(one, other) return one.since < other.since end)
for i = #holders, asked.count + 1, -1 do holders[i] = nil end
return cjson.encode({ status = 'ok', holders = holders })
