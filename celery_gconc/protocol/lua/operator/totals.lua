-- uses: input epochs reply
-- What was counted since the namespace began, over all its workers.
--
-- Guarantee: one instant; it only grows, until Redis loses its data, or nothing was counted for 30 days.
-- ARGV[2] {}
-- Reply   {status: "ok", totals: {limit ("" for what no limit has): JSON, as record.lua keeps it}}
-- Cost    O(limits)
input.expect({})
epochs.begin()
reply.finish()
local totals, fields = {}, call('HGETALL', key.totals)
for i = 1, #fields, 2 do totals[fields[i]] = fields[i + 1] end
return cjson.encode({ status = 'ok', totals = totals })
