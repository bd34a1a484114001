-- uses: input time members
-- doesn't begin: it reads what sessions told, whether they live or not
-- Tasks that have ended under a limit lately, as sessions told with their heartbeats.
--
-- Guarantee: none; a sample. Each part stands for as many tasks as it says.
-- ARGV[2] limit, span (ms)
-- Reply   {status: "ok", parts: [{at (wall time, ms), ended, samples [[ms since its end, ms waited, ms held]...]}...]}
-- Cost    O(heartbeats of that time in which tasks ended)
local asked = input.asked
input.expect({ limit = input.limit_name, span = input.count })
local parts = {}
for _, entry in ipairs(call('XRANGE', key.recent, members.int(math.max(time.now - asked.span, 0)), '+')) do
  local part = cjson.decode(entry[2][2])[asked.limit]
  if part then
    part.at = tonumber(string.match(entry[1], '^%d+'))
    table.insert(parts, part)
  end
end
return cjson.encode({ status = 'ok', parts = parts })
