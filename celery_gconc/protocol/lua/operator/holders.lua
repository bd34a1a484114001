-- uses: input pages units running sessions epochs reply
-- Which tasks run under a limit, as far as their sessions have told.
--
-- Guarantee: one instant for those of one page; dead sessions are reclaimed first. Units that passed from one task to the
--         next within a worker are shown with the earlier one until that worker's next heartbeat.
-- ARGV[2] limit; after (null, or next of the page before)
-- Reply   {status: "ok", holders: [{session, node, id, task, since (wall time, ms), claims}...], next}
-- Cost    O(tasks of SIZE sessions that have units of the limit)
local asked = input.asked
input.expect({ limit = input.limit_name, after = pages.may_be_after })
epochs.begin()
reply.finish()
local holders, text, next_at = {}, 0, nil
local page = units.sessions_of(asked.limit, pages.SIZE, pages.after)
for i, sid in ipairs(page) do
  local runs, size = running.of(sid)
  text = text + size
  for _, holder in ipairs(runs) do
    if running.covers(holder.claims, asked.limit) then
      holder.session, holder.node = sid, sessions.node_of(sid)
      table.insert(holders, holder)
    end
  end
  if text > pages.TEXT or i == pages.SIZE then
    next_at = sid
    break
  end
end
return cjson.encode({ status = 'ok', holders = holders, next = next_at })
