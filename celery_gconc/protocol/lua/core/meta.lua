-- uses: nothing
-- The scalars of the namespace, read once. Whoever changes one here writes it to META too.
local meta
do
  local found = call('HMGET', key.meta, 'clock', 'time', 'held', 'interval', 'longest', 'version', 'epoch', 'run',
    'born', 'heard', 'shut', 'fence', 'ends')
  meta = {
    clock = tonumber(found[1]),           -- the lease clock (ms)
    time = tonumber(found[2]),            -- its last step (wall time, ms)
    held = tonumber(found[3]),            -- its last step that was held back (wall time, ms)
    interval = tonumber(found[4]) or 0,   -- the least of a live session (ms); while none lives, that of the last
    longest = tonumber(found[5]) or 0,    -- the longest lease of a live session (ms); likewise
    version = tonumber(found[6]) or 0,    -- of the limit table
    epoch = found[7] or nil,
    run = found[8],                       -- the id of the server that the epoch began on
    born = tonumber(found[9]),            -- when the epoch began (lease clock, ms)
    heard = tonumber(found[10]) or 0,     -- the longest lease of before the epoch (ms)
    shut = tonumber(found[11]),           -- nothing is granted until then: unknown sessions may live (lease clock, ms)
    fence = tonumber(found[12]) or 0,     -- the last fencing number
    ends = tonumber(found[13]),           -- when the next of what operators set for a time may end (wall time, ms)
    fence_before = found[12],
  }
end
