-- uses: input pages epochs reply
-- What was counted since the namespace began, over all its workers.
--
-- Guarantee: one instant for those of one page; it only grows, until Redis loses its data, or nothing was counted for 30
--         days. What was counted under a limit comes in one piece.
-- ARGV[2] after (null, or next of the page before)
-- Reply   {status: "ok", totals: {limit ("" for what no limit has): JSON, as record.lua keeps it}, next}
-- Cost    O(SIZE)
input.expect({ after = function(it) return pages.may_be_after(it) and pages.cursor(pages.after) end })
epochs.begin()
reply.finish()
local next_at, fields = unpack(call('HSCAN', key.totals, pages.after or '0', 'COUNT', pages.SIZE))
local totals = {}
for i = 1, #fields, 2 do totals[fields[i]] = fields[i + 1] end
return cjson.encode({ status = 'ok', totals = totals, next = next_at ~= '0' and next_at or nil })
