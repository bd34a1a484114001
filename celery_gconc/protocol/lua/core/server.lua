-- uses: nothing
-- The server, by the id of its process; nil where our user may not ask.
local server
do
  local info = redis.pcall('INFO', 'server')
  local _, at = string.find(type(info) == 'string' and info or '', 'run_id:', 1, true)
  server = { id = at and string.match(info, '^%w+', at + 1) }
end
