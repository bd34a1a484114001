-- uses: nothing
-- The scalars of the namespace, read once. Whoever changes one here writes it to the hash too.
local meta
do
  local found = call('HMGET', key.meta, 'clock', 'time', 'held', 'interval', 'longest', 'version', 'epoch',
    'server_id', 'epoch_began', 'heard', 'closed_until', 'fence', 'next_override_end', 'served_to', 'heavy',
    'all_settle', 'told', 'shard', 'untold', 'audit', 'over_until')
  local fence, version = tonumber(found[12]) or 0, tonumber(found[6]) or 0
  meta = {
    clock = tonumber(found[1]),              -- the lease clock (ms)
    time = tonumber(found[2]),               -- its last step (wall time, ms)
    held = tonumber(found[3]),               -- its last step that was held back (wall time, ms)
    interval = tonumber(found[4]) or 0,      -- the least of a live session (ms); while none lives, that of the last
    longest = tonumber(found[5]) or 0,       -- the longest lease of a live session (ms); likewise
    version = version, version_before = version, -- of the limit table
    epoch = found[7] or nil,
    server_id = found[8],                    -- of the server that the epoch began on
    epoch_began = tonumber(found[9]),        -- (lease clock, ms)
    heard = tonumber(found[10]) or 0,        -- the longest lease of before the epoch (ms)
    closed_until = tonumber(found[11]),      -- no grants until then: unknown sessions may live (lease clock, ms)
    fence = fence, fence_before = fence,     -- the last fencing number
    next_override_end = tonumber(found[13]), -- when what operators set for a time may next expire (wall time, ms)
    served_to = found[14] or nil,            -- the last limit whose line was served since grants go on; nil: all were
    heavy = found[15] == '1',                -- some wants are for more than one unit of a limit, or were
    all_settle = tonumber(found[16]),        -- every limit settles until each session has stated by that version
    told = tonumber(found[17]) or 0,         -- the version of the limit table that all sessions were told of
    shard = tonumber(found[18]) or 0,        -- the next of their channels to be told of a newer one
    untold = tonumber(found[19]) or 0,       -- how many of them are to be told of it
    over_until = tonumber(found[21]),        -- for so long heartbeats are statements: a limit was found above its max (lease clock, ms)
    audit = found[20] or nil,                -- of which sum an audit adds up the parts, in several scripts
  }
end
