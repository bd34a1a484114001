-- uses: nothing
-- What is counted, under each limit and for the whole namespace.
local counters
do
  -- For the whole namespace: one record, under no limit's name.
  local function add(counts)
    local totals = cjson.decode(call('HGET', key.totals, '') or '{}')
    for name, more in pairs(counts) do totals[name] = (totals[name] or 0) + more end
    call('HSET', key.totals, '', cjson.encode(totals))
  end

  -- What has ended in the last minute is counted in parts: their length (ms), and how many they are.
  counters = { SLOT = 5000, SLOTS = 12, add = add }
end
