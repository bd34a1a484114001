-- uses: input pages epochs reply
-- Which limits there are: all that are limited, configured by a live session or set at run time; how many sessions live.
--
-- Guarantee: what there is from the first page to the last is named, maybe twice; what comes or goes meanwhile may be.
-- ARGV[2] after (null, or next of the page before)
-- Reply   {status: "ok", limited [limit...], unlimited [limit...] (set at run time), live, next}
-- Cost    O(LOOKS)
local function is_after(it)
  return pages.may_be_after(it) and (pages.after == nil or string.find(pages.after, '^[mo]%d+$') ~= nil and #pages.after < 20)
end
input.expect({ after = is_after })
epochs.begin()
reply.finish()
local MAX, OVERRIDES = 'm', 'o' -- what is looked at, in this order, with the cursor there
local limited, unlimited = {}, {}
local phase, at = string.match(pages.after or MAX .. '0', '^(%a)(%d+)$')

local next_at, fields = unpack(call('HSCAN', phase == MAX and key.max or key.overrides, at, 'COUNT', math.ceil(constant.LOOKS / 2)))
for i = 1, #fields, 2 do
  if phase == MAX then
    table.insert(limited, fields[i])
  elseif call('HEXISTS', key.max, fields[i]) == 0 then
    table.insert(unlimited, fields[i])
  end
end
if next_at ~= '0' then
  next_at = phase .. next_at
elseif phase == MAX and call('EXISTS', key.overrides) == 1 then
  next_at = OVERRIDES .. '0'
else
  next_at = nil
end
return cjson.encode({
  status = 'ok', limited = limited, unlimited = unlimited, live = call('ZCARD', key.heartbeats) / 2, next = next_at,
})
