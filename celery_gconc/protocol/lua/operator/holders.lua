-- uses: input units running sessions epochs reply
-- Which tasks run under a limit, as far as their sessions have told.
--
-- Guarantee: one instant; dead sessions are reclaimed first. Units that passed from one task to the next within a worker
--         are shown with the earlier one until that worker's next heartbeat.
-- ARGV[2] limit; count: how many holders at most
-- Reply   {status: "ok", holders: [{session, node, id, task, since (wall time, ms), claims}...]}, those that have run
--         for longest first
-- Cost    O(tasks of the sessions that have units of the limit)
local asked = input.asked
input.expect({ limit = input.limit_name, count = function(it) return input.whole(it, 1, 1e9) end })
epochs.begin()
reply.finish()
local holders = {}
for _, sid in ipairs(units.sessions_of(asked.limit)) do
  for _, holder in ipairs(running.of(sid)) do
    if running.covers(holder.claims, asked.limit) then
      holder.session, holder.node = sid, sessions.node_of(sid)
      table.insert(holders, holder)
    end
  end
end
table.sort(holders, function(one, other) return one.since < other.since end)
for i = #holders, asked.count + 1, -1 do holders[i] = nil end
return cjson.encode({ status = 'ok', holders = holders })
