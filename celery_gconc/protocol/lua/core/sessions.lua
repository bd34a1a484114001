-- uses: members overrides serving takers heartbeats
-- Sessions: who they are, and their end.
local sessions
do
  local FIELDS = {
    'info', 'config', 'interval', 'timeout', 'queues', 'room', 'granted', 'sync', 'stated_version', 'offered', 'parked', 'stall',
    'growth',
  }

  -- A session ends: all that it holds and waits for goes, and its configured values no longer count.
  -- Return how many permits it held.
  local function finish(sid)
    call('ZREM', key.sessions, sid)
    local permits_held = 0
    local from, to = members.roll_of(sid)
    for _, member in ipairs(call('ZRANGEBYLEX', key.roll, from, to)) do
      local grant, number = members.read_roll(member)
      if tonumber(grant) > 0 then permits_held = permits_held + 1 end
      serving.remove(sid .. ':' .. number)
    end
    takers.set(sid, '', {})
    local config = cjson.decode(call('HGET', key.session, sid .. ':config') or '{}')
    local beats = call('HMGET', key.session, sid .. ':interval', sid .. ':timeout')
    if beats[1] then heartbeats.remove(sid, beats[1], beats[2]) end
    for _, field in ipairs(FIELDS) do call('HDEL', key.session, sid .. ':' .. field) end
    for limit in pairs(config) do overrides.configure(limit) end
    return permits_held
  end

  local nodes = {}
  local function node_of(sid)
    local node = nodes[sid]
    if not node then
      node = cjson.decode(call('HGET', key.session, sid .. ':info') or '{}').node or '?'
      nodes[sid] = node
    end
    return node
  end

  sessions = { finish = finish, node_of = node_of }
end
