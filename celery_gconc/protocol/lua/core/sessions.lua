-- uses: configs units hungry wants grants running rooms contention serving takers apps heartbeats parked
-- Sessions: who they are, and their end.
local sessions
do
  local FIELDS = {
    'info', 'config', 'interval', 'timeout', 'queues', 'room', 'granted', 'sync', 'offered', 'stall', 'growth', 'idle',
    'over', 'aside',
  }

  -- Nothing of it is heard any more, and it is given nothing. What it holds counts until it is taken away.
  local function silence(sid)
    takers.set(sid, '', {})
    apps.remove(sid)
    local beats = call('HMGET', key.session, sid .. ':interval', sid .. ':timeout')
    if beats[1] then heartbeats.remove(sid, beats[1], beats[2]) end
    local config = call('HGET', key.session, sid .. ':config')
    if config then configs.leave(config, sid) end
    rooms.set(sid, 0)
    local fields = {}
    for i, field in ipairs(FIELDS) do fields[i] = sid .. ':' .. field end
    call('HDEL', key.session, unpack(fields))
    call('ZREM', key.stated, sid)
    running.forget(sid)
    grants.forget_all(sid)
  end

  -- A session ends: what it holds and waits for goes. What is more than at_most of them is left for other scripts: its
  -- lease has ended, so they find it. (Its configuration, where no other session uses it, they find in UNUSED.)
  -- Return whether all is done, how many units were taken away, and how much work it was.
  local function finish(sid, at_most)
    silence(sid)
    local found, taken = units.limits_of(sid, at_most), 0
    for _, limit in ipairs(found) do
      taken = taken + units.of(sid, limit)
      units.set(sid, limit, 0)
    end
    local waiting = #found < at_most and wants.ids_of(sid, at_most - #found) or {}
    for _, id in ipairs(waiting) do serving.remove(id) end
    for _, limit in ipairs(hungry.limits_of(sid, math.max(at_most - #found - #waiting, 0))) do
      hungry.state(sid, limit, 0)
      contention.finish_if_empty(limit)
      table.insert(waiting, limit)
    end
    local work = #found + #waiting
    if work < at_most then work = work + parked.end_some(sid, at_most - work) end
    local is_done = work < at_most
    if is_done then call('ZREM', key.sessions, sid) end
    return is_done, taken, work
  end

  local ALL = 1e9 -- at most: what a worker may have
  -- Its lease ends at once.
  local CLOSED = -1
  local function close(sid) call('ZADD', key.sessions, 'XX', CLOSED, sid) end

  local nodes = {}
  local function node_of(sid)
    local node = nodes[sid]
    if not node then
      node = cjson.decode(call('HGET', key.session, sid .. ':info') or '{}').node or '?'
      nodes[sid] = node
    end
    return node
  end

  sessions = { ALL = ALL, CLOSED = CLOSED, close = close, finish = finish, node_of = node_of }
end
