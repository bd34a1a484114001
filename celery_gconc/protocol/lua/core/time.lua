-- uses: nothing
-- Redis' wall time.
local time
do
  local parts = call('TIME')
  time = {
    now = parts[1] * 1000 + math.floor(parts[2] / 1000), -- ms
    us = parts[2] % 1000,                                -- since then
  }
end
