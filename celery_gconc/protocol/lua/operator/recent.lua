-- Tasks that have ended under a limit lately, as sessions told with their heartbeats.
--
-- Guarantee: none; a sample. Each part stands for as many tasks as it says.
-- ARGV[2] limit, span (ms)
-- Reply   {status: "ok", parts: [{at (wall time, ms), ended, samples [[ms since its end, ms waited, ms held]...]}...]}
-- Cost    O(heartbeats of that time in which tasks ended)
expect({ limit = limit_name, span = count })
local parts = {}
for _, entry in ipairs(call('XRANGE', RECENT, int(math.max(now - asked.span, 0)), '+')) do
  local told = cjson.decode(entry[2][2])[asked.limit]
  if told then
    told.at = tonumber(string.match(entry[1], '^%d+'))
    table.insert(parts, told)
  end
end
return cjson.encode({ status = 'ok', parts = parts })
