-- uses: meta time members
-- Grants: what a session was given, until it has said that it knows of it and, in a statement, what became of it.
--
-- GRANTS has <session>:<number of the grant, twelve digits>:<JSON, a GRANT row, the task's id, the task> for each.
local grants
do
  local function from(sid, grant) return string.format('[%s:%012.0f:', sid, grant) end
  local function before(sid, grant) return string.format('(%s:%012.0f:', sid, grant) end
  local function after_all(sid) return '(' .. sid .. ';' end
  local function row_of(member) return cjson.decode(string.match(member, '^[^:]*:%d+:(.*)$')) end

  -- The fencing number last given, in steps of 100 us of Redis' clock: it only grows, and is never behind that clock
  -- when units are granted, so it goes on growing where it was lost with the rest of the data.
  local function next_fence()
    meta.fence = math.max(meta.fence + 1, math.floor(time.now * 10 + time.us / 100))
    return meta.fence
  end
  local function has_seen_fence(fence) meta.fence = math.max(meta.fence, fence) end
  local function save_fence()
    call('HSET', key.meta, 'fence', members.int(meta.fence))
  end

  -- A set of a session is granted its claims, for a request that waits; return the row that tells it.
  local function add(sid, set, claims, request)
    local grant = call('HINCRBY', key.session, sid .. ':granted', 1)
    local row = {
      [GRANT.grant] = grant, [GRANT.set] = set, [GRANT.claims] = claims, [GRANT.fence] = next_fence(),
      [GRANT.at] = time.now,
    }
    local last = #row
    row[last + 1], row[last + 2] = request[2], request[3]
    call('ZADD', key.grants, 0, string.sub(from(sid, grant), 2) .. cjson.encode(row))
    row[last + 1], row[last + 2] = nil, nil
    return row
  end

  -- The rows of those above a number, in order, as the session is told of them; or all, with whom they were for.
  local function since(sid, grant)
    local found = call('ZRANGEBYLEX', key.grants, from(sid, grant + 1), after_all(sid))
    for i, member in ipairs(found) do
      local row = row_of(member)
      for field = #row, GRANT.at + 1, -1 do row[field] = nil end
      found[i] = row
    end
    return found
  end
  local function all(sid)
    local found = call('ZRANGEBYLEX', key.grants, from(sid, 0), after_all(sid))
    for i, member in ipairs(found) do found[i] = row_of(member) end
    return found
  end

  -- The session knows of all up to this one, and has stated what it runs.
  local function forget_to(sid, grant) call('ZREMRANGEBYLEX', key.grants, from(sid, 0), before(sid, grant + 1)) end
  -- Its task has ended.
  local function forget(sid, grant) call('ZREMRANGEBYLEX', key.grants, from(sid, grant), before(sid, grant + 1)) end
  local function forget_all(sid) call('ZREMRANGEBYLEX', key.grants, from(sid, 0), after_all(sid)) end

  grants = {
    next_fence = next_fence, has_seen_fence = has_seen_fence, save_fence = save_fence, add = add, since = since,
    all = all, forget_to = forget_to, forget = forget, forget_all = forget_all,
  }
end
