-- uses: input time members rooms
-- Which sessions take messages of which queue: those who have such messages and no room for them ask.
local takers
do
  local function member_of(source, queue, sid) return source .. members.US .. queue .. members.US .. sid end

  -- The queues that a session takes messages of.
  -- source: at which broker, for a queue of the same name at another one is another queue.
  local function set(sid, source, queues)
    local field = sid .. ':takes'
    local old = cjson.decode(call('HGET', key.session, field) or '[]')
    for _, queue in ipairs(old[2] or {}) do call('ZREM', key.takers, member_of(old[1], queue, sid)) end
    if #queues == 0 then
      call('HDEL', key.session, field)
      return
    end
    for _, queue in ipairs(queues) do call('ZADD', key.takers, 0, member_of(source, queue, sid)) end
    call('HSET', key.session, field, cjson.encode({ source, queues }))
  end

  -- Some of those who take a queue: of many, each time others.
  local function some_of(from, to)
    local LOOKED_AT = 16 -- how many are looked at for one with room
    local start = '[' .. from .. string.format('%02x', time.us % 256)
    local found = call('ZRANGEBYLEX', key.takers, start, to, 'LIMIT', 0, LOOKED_AT)
    if #found == LOOKED_AT then return found end
    for _, member in ipairs(call('ZRANGEBYLEX', key.takers, '[' .. from, '(' .. string.sub(start, 2), 'LIMIT', 0,
      LOOKED_AT - #found)) do
      table.insert(found, member)
    end
    return found
  end

  -- Does another session take the queue, and have room, or may grow?
  local function is_taken_elsewhere(source, queue)
    local from, to = member_of(source, queue, ''), '(' .. source .. members.US .. queue .. members.AFTER
    for _, member in ipairs(some_of(from, to)) do
      local sid = string.sub(member, #from + 1)
      local growth = tonumber(call('HGET', key.session, sid .. ':growth')) or 0
      if sid ~= input.me and rooms.of(sid) + growth > 0 then return true end
    end
    return false
  end

  takers = { set = set, is_taken_elsewhere = is_taken_elsewhere }
end
