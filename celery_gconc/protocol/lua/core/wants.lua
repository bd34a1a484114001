-- uses: clock
-- Wants: what sessions wait for. A want is a set of claims of one session, and the requests that wait for all of it.
--
-- Its id is <session>:<number of the set>, and WANTS has one record for each, whose fields are
--   c   the claims, [[limit, weight]...]; a grant is all of them at once
--   r   the requests, first come first: [[arrival (lease clock, us, sixteen digits), task id, task]...]; never empty
--   at  the limit in whose line the first of them stands
--   k   how often that one missed its turn, as another of its limits was full
--   o   1 once its turn came while its session had no room
--   q   the limit of the queue that its messages may still go back to
-- ROLL has the ids, by session.
local wants
do
  local function load(id)
    local text = call('HGET', key.wants, id)
    return text and cjson.decode(text) or nil
  end
  local function save(id, record) call('HSET', key.wants, id, cjson.encode(record)) end

  -- Of some of a session's, where at_most is given.
  local function ids_of(sid, at_most)
    return call('ZRANGEBYLEX', key.roll, '[' .. sid .. ':', '(' .. sid .. ';', 'LIMIT', 0, at_most or -1)
  end
  local function enrol(id) call('ZADD', key.roll, 0, id) end
  local function forget(id)
    call('HDEL', key.wants, id)
    call('ZREM', key.roll, id)
  end

  -- How many units of a limit it is for.
  local function weight_on(record, limit)
    for _, claim in ipairs(record.c) do
      if claim[1] == limit then return claim[2] end
    end
    return 0
  end

  local function is_heavy(record)
    for _, claim in ipairs(record.c) do
      if claim[2] > 1 then return true end
    end
    return false
  end

  -- Can its requests wait at the broker rather than here, as this limit is their queue's?
  local function may_go_back(record, limit) return record.q == limit end

  -- Are these the same claims, in the same order?
  local function are_same(some, others)
    if #some ~= #others then return false end
    for i = 1, #some do
      if some[i][1] ~= others[i][1] or some[i][2] ~= others[i][2] then return false end
    end
    return true
  end

  -- Where one of its requests stands among all that wait.
  local function order_of(id, number, request) return request[1] .. id .. string.format('%04d', number) end

  -- For how long a request has waited (ms).
  local function waited(request) return math.max(clock.at - tonumber(request[1]) / 1000, 0) end

  wants = {
    load = load, save = save, ids_of = ids_of, enrol = enrol, forget = forget, weight_on = weight_on,
    is_heavy = is_heavy,
    may_go_back = may_go_back, are_same = are_same, order_of = order_of, waited = waited,
  }
end
