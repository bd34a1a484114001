-- What was counted since the namespace began, over all its workers.
--
-- Guarantee: one instant; it only grows, until Redis loses its data, or nothing was counted for 30 days.
-- ARGV[2] {}
-- Reply   {status: "ok", totals: {limit ("" for what no limit has): JSON, as record.lua keeps it}}
-- Cost    O(limits)
expect({})
begin()
finish()
local totals, pairs_ = {}, call('HGETALL', TOTALS)
for i = 1, #pairs_, 2 do totals[pairs_[i]] = pairs_[i + 1] end
return cjson.encode({ status = 'ok', totals = totals })
