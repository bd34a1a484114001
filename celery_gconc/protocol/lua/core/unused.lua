-- uses: clock
-- Configurations that no session uses: UNUSED has their digests, and when their values are to go (configs.lua).
local unused
do
  local soonest -- as far as it was looked at

  local function change(command, ...)
    soonest = nil
    call(command, key.unused, ...)
  end

  -- In how many ms the values of one are to go, and its digest; nil: there is none.
  local function until_end()
    soonest = soonest or call('ZRANGE', key.unused, 0, 0, 'WITHSCORES')
    return soonest[2] and math.max(tonumber(soonest[2]) - clock.at, 0), soonest[1]
  end

  unused = { change = change, until_end = until_end }
end
