-- uses: meta time clock members
-- Requests for permits, and the permits that were granted: one record each, in REQUESTS.
--
-- A record's fields are
--   c   its claims, [[limit, weight]...]; a permit is all of them at once
--   g   the number of its grant in its session; 0 while it waits
--   t   task id                        n   task name
--   f   fencing number (0: it was never granted; its task ran before the limit began)
--   s   since when its task has it (wall time, ms)
--   i   1 while no task has it (idle)
-- and of a waiter
--   a   arrival at its gate (lease clock, us, sixteen digits): where it stands in a line
--   w   arrival of the task that it stands for now, where that is another than the one it came for
--   at  the limit in whose line it stands
--   k   how often it missed its turn, as another of its limits was full
--   o   1 once its turn came while its session had no room
-- A waiter becomes a holder when it is granted; what a session states to run is a holder at once.
local permits
do
  local function load(id)
    local text = call('HGET', key.requests, id)
    return text and cjson.decode(text) or nil
  end
  local function save(id, record) call('HSET', key.requests, id, cjson.encode(record)) end

  local function held(limit) return call('ZLEXCOUNT', key.holders, members.first(limit), members.last(limit)) end

  -- The fencing number last given, in steps of 100 us of Redis' clock: it only grows, and is never behind that clock
  -- when a permit is granted, so it goes on growing where it was lost with the rest of the data.
  local function next_fence()
    meta.fence = math.max(meta.fence + 1, math.floor(time.now * 10 + time.us / 100))
    return meta.fence
  end
  local function save_fence()
    local fence = members.int(meta.fence)
    if fence ~= meta.fence_before and meta.fence > 0 then call('HSET', key.meta, 'fence', fence) end
  end

  local function hold(id, record, grant, since)
    record.g = grant
    record.s = since
    save(id, record)
    call('ZADD', key.roll, 0, members.roll_member(id, grant))
    for _, claim in ipairs(record.c) do call('ZADD', key.holders, 0, claim[1] .. members.US .. id) end
  end

  -- What a session states to run counts whether there is a permit for it or not.
  local function adopt(sid, row, grant)
    meta.fence = math.max(meta.fence, row[HELD.fence])
    local record = {
      c = row[HELD.claims], a = string.rep('0', 16), k = 0, t = row[HELD.task_id], n = row[HELD.task],
      i = row[HELD.idle], f = row[HELD.fence],
    }
    hold(sid .. ':' .. members.int(row[HELD.number]), record, grant, time.now - row[HELD.age])
  end

  -- A grant, as its session is told of it.
  local function grant_row(grant, number, record)
    return { [GRANT.grant] = grant, [GRANT.number] = number, [GRANT.fence] = record.f, [GRANT.at] = record.s }
  end

  -- Are these the same claims, in the same order?
  local function are_same(some, others)
    if #some ~= #others then return false end
    for i = 1, #some do
      if some[i][1] ~= others[i][1] or some[i][2] ~= others[i][2] then return false end
    end
    return true
  end

  -- For how long the task of a waiter has waited (ms).
  local function waited(record) return math.max(clock.at - tonumber(record.w or record.a) / 1000, 0) end

  permits = {
    load = load, save = save, held = held, next_fence = next_fence, save_fence = save_fence, hold = hold,
    adopt = adopt, are_same = are_same, grant_row = grant_row, waited = waited,
  }
end
