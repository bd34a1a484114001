-- uses: input pages time members
-- doesn't begin: it reads what sessions told, whether they live or not
-- Tasks that have ended under a limit lately, as sessions told with their heartbeats.
--
-- Guarantee: none; a sample. Each part stands for as many tasks as it says.
-- ARGV[2] limit, span (ms); after (null, or next of the page before)
-- Reply   {status: "ok", parts: [{at (wall time, ms), ended, samples [[ms since its end, ms waited, ms held]...]}...],
--          next}
-- Cost    O(LOOKS)
local asked = input.asked
local FETCHED = 10 -- entries at a time
local function is_after(it)
  return pages.may_be_after(it) and (pages.after == nil or string.find(pages.after, '^%d+%-%d+$') ~= nil and #pages.after < 40)
end
input.expect({ limit = input.limit_name, span = input.count, after = is_after })
local parts, seen, text = {}, 0, 0
local named = cjson.encode(asked.limit) .. ':' -- how it is written there
local next_at = pages.after

local function read(entry)
  local told = entry[2][2]
  next_at, seen, text = entry[1], seen + 1, text + #told / 10 -- (to look for a name in it costs little)
  if not string.find(told, named, 1, true) then return end
  text = text + #told
  local part = cjson.decode(told)[asked.limit]
  if not part then return end
  part.at = tonumber(string.match(entry[1], '^%d+'))
  table.insert(parts, part)
end

local from = pages.after and '(' .. pages.after or members.int(math.max(time.now - asked.span, 0))
repeat
  local fetched = call('XRANGE', key.recent, from, '+', 'COUNT', FETCHED)
  for _, entry in ipairs(fetched) do read(entry) end
  if #fetched < FETCHED then next_at = nil else from = '(' .. next_at end
until not next_at or text > pages.TEXT / 20 or seen >= constant.LOOKS
return cjson.encode({ status = 'ok', parts = parts, next = next_at })
