-- Which tasks hold a permit under a limit, as far as their sessions have told.
--
-- Guarantee: one instant; dead sessions are reclaimed first. A permit that passed from one task to the next within a
--         worker is shown with the earlier one until that worker's next heartbeat.
-- ARGV[2] limit; most: how many holders at most
-- Reply   {status: "ok", holders: [[session, task id, task name]...]}, without idle ones
-- Cost    O(holders of the limit), at most `most`
expect({ limit = limit_name, most = function(it) return whole(it, 1, 1e9) end })
begin()
finish()
local holders = {}
for _, member in ipairs(call('ZRANGEBYLEX', HOLDERS, first(asked.limit), last(asked.limit), 'LIMIT', 0, asked.most)) do
  local id = string.sub(member, #asked.limit + 2)
  local record = load(id)
  if record and record.i ~= 1 then table.insert(holders, { owner(id), record.t or '', record.n or '' }) end
end
return cjson.encode({ status = 'ok', holders = holders })
