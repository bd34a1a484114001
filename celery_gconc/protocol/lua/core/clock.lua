-- uses: time meta members
-- The lease clock (ms): wall time as Redis has it, but it stands still while nobody calls, and never goes back.
--
-- One step is at most the least interval of a live session, for each trusts its lease to its end less an interval of
-- its own.
local clock
do
  local step = math.max(time.now - (meta.time or time.now), 0)
  local is_held = step > meta.interval * 1.02 -- it goes slower than the time, as nobody has called in between
  local at = (meta.clock or time.now) + math.min(step, meta.interval)

  local function save()
    if is_held then
      call('HSET', key.meta, 'clock', members.int(at), 'time', members.int(time.now), 'held', members.int(time.now))
    else
      call('HSET', key.meta, 'clock', members.int(at), 'time', members.int(time.now))
    end
  end

  -- age: us since a request reached its gate, by its worker's clock; so it stands where it belongs however late we hear.
  local function arrival_of(age)
    local arrival = members.int(math.max(at * 1000 + time.us - math.max(age, 0), 0))
    return string.rep('0', 16 - #arrival) .. arrival
  end

  clock = { at = at, is_held = is_held, save = save, arrival_of = arrival_of }
end
