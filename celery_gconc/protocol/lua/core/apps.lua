-- uses: members
-- Of which apps and brokers sessions are, and of which of their queues.
--
-- APPS has one member for each session of an app at a broker, and one for each of its queues.
local apps
do
  local US = members.US
  local function word(it) return (string.gsub(tostring(it), '%c', ' ')) end

  local function by_app(info, sid) return table.concat({ 'app', word(info.app), word(info.broker), sid }, US) end
  local function by_queue(info, queue, sid)
    return table.concat({ 'queue', word(info.broker), word(queue), word(info.app), sid }, US)
  end
  local function each(sid, info, queues, visit)
    visit(by_app(info, sid))
    for _, queue in ipairs(queues) do visit(by_queue(info, queue, sid)) end
  end

  local function add(sid, info, queues)
    each(sid, info, queues, function(member) call('ZADD', key.apps, 0, member) end)
  end
  local function remove(sid)
    local info = call('HGET', key.session, sid .. ':info')
    if not info then return end
    local queues = cjson.decode(call('HGET', key.session, sid .. ':queues') or '[]')
    each(sid, cjson.decode(info), queues, function(member) call('ZREM', key.apps, member) end)
  end

  -- Does a session of that app, at that broker, take from one of the queues?
  local function share_queues(app, broker, queues)
    for _, queue in ipairs(queues) do
      local from = by_queue({ app = app, broker = broker }, queue, '')
      if #call('ZRANGEBYLEX', key.apps, '[' .. from, '(' .. string.sub(from, 1, -2) .. members.AFTER, 'LIMIT', 0, 1) > 0 then
        return true
      end
    end
    return false
  end

  -- A session of each other app or broker, none of whose sessions takes from a queue of this one at the same broker.
  local function others(info, queues)
    local MAX_FOUND, MAX_VISITED = 16, 64
    local found, after = {}, '[app' .. US
    for _ = 1, MAX_VISITED do
      local member = call('ZRANGEBYLEX', key.apps, after, '(app' .. members.AFTER, 'LIMIT', 0, 1)[1]
      if not member or #found == MAX_FOUND then break end
      local group, app, broker, sid = string.match(member, '^(app' .. US .. '(.-)' .. US .. '(.-))' .. US .. '(.*)$')
      after = '(' .. group .. members.AFTER
      local is_own = app == word(info.app) and broker == word(info.broker)
      local shares = not is_own and broker == word(info.broker) and share_queues(app, broker, queues)
      if not is_own and not shares then
        local theirs = cjson.decode(call('HGET', key.session, sid .. ':info') or '{}')
        table.insert(found, { app = theirs.app, node = theirs.node, broker = theirs.broker })
      end
    end
    return found
  end

  apps = { add = add, remove = remove, others = others }
end
