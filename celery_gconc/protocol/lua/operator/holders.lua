-- Which tasks hold a permit under a limit, as far as their sessions have told.
--
-- Guarantee: one instant; dead sessions are reclaimed first. A permit that passed from one task to the next within a
--         worker is shown with the earlier one until that worker's next heartbeat.
-- ARGV[2] limit; most: how many holders at most
-- Reply   {status: "ok", holders: [{session, node, id, task, since (wall time, ms), limits}...]}, without idle ones,
--         those that have held it for longest first
-- Cost    O(holders of the limit)
expect({ limit = limit_name, most = function(it) return whole(it, 1, 1e9) end })
begin()
finish()
local holders = {}
for _, member in ipairs(call('ZRANGEBYLEX', HOLDERS, first(asked.limit), last(asked.limit))) do
  local id = string.sub(member, #asked.limit + 2)
  local record = load(id)
  if record and record.i ~= 1 then
    table.insert(holders, {
      session = owner(id), node = node_of(owner(id)), id = record.t or '', task = record.n or '', since = record.s,
      limits = record.l,
    })
  end
end
table.sort(holders, function(one, other) return one.since < other.since end)
for i = #holders, asked.most + 1, -1 do holders[i] = nil end
return cjson.encode({ status = 'ok', holders = holders })
