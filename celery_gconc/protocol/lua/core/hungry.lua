-- uses: clock members
-- Hungry sessions: what waits for a queue's limit waits at the broker, and they would read more of it if they had units.
--
-- HUNGRY has each twice: under the limit, in the order in which units go to them (who has fewest of it; among those, who has
-- been hungry for longest), and under the session, with how many more it would use.
local hungry
do
  local US = members.US
  local are_any = call('EXISTS', key.hungry) == 1

  local function digits(count) return string.format('%012.0f', count) end
  local function by_limit(sid, limit, one) return limit .. US .. one.held .. US .. one.since .. US .. sid end
  local function by_session(sid, limit, one)
    return US .. sid .. US .. limit .. US .. one.held .. US .. one.since .. US .. members.int(one.wanted)
  end

  local function remove(sid, limit, one) call('ZREM', key.hungry, by_limit(sid, limit, one), by_session(sid, limit, one)) end
  local function add(sid, limit, one)
    call('ZADD', key.hungry, 0, by_limit(sid, limit, one), 0, by_session(sid, limit, one))
    are_any = true
  end

  -- Those of a session, some of them where at_most is given: the limit, and what is known of each.
  local function read(member, sid)
    local limit, held, since, wanted = string.match(member, '^(.-)' .. US .. '(%d+)' .. US .. '(%d+)' .. US .. '(%d+)$', #sid + 3)
    return limit, { held = held, since = since, wanted = tonumber(wanted) }
  end
  local function load(sid, limit)
    if not are_any then return nil end
    local from = US .. sid .. US .. limit
    local found = call('ZRANGEBYLEX', key.hungry, '[' .. from .. US, '(' .. from .. members.AFTER, 'LIMIT', 0, 1)[1]
    if not found then return nil end
    local _, one = read(found, sid)
    return one
  end
  local function limits_of(sid, at_most)
    if not are_any then return {} end
    local from = US .. sid
    local found = call('ZRANGEBYLEX', key.hungry, '[' .. from .. US, '(' .. from .. members.AFTER, 'LIMIT', 0, at_most or -1)
    for i, member in ipairs(found) do found[i] = read(member, sid) end
    return found
  end

  -- A session that has `held` units of a limit would use so many more. Return whether it was not hungry before.
  local function state(sid, limit, wanted, held)
    local one = load(sid, limit)
    if one then remove(sid, limit, one) end
    if wanted > 0 then
      add(sid, limit, { held = digits(held), since = one and one.since or clock.arrival_of(0), wanted = wanted })
    end
    return not one and wanted > 0
  end

  -- A session has so many units of a limit by now.
  local function moved(sid, limit, held)
    local one = load(sid, limit)
    if not one then return end
    remove(sid, limit, one)
    one.held = digits(held)
    add(sid, limit, one)
  end

  -- It was given one: the next time it comes behind those who have as many.
  local function fed(sid, limit)
    local one = load(sid, limit)
    remove(sid, limit, one)
    if one.wanted > 1 then
      add(sid, limit, { held = one.held, since = clock.arrival_of(0), wanted = one.wanted - 1 })
    end
  end

  -- The first of a limit, in order: each a session, and how many units it has.
  local function first(limit, at_most)
    local found = are_any and call('ZRANGEBYLEX', key.hungry, members.first(limit), members.last(limit), 'LIMIT', 0, at_most) or {}
    for i, member in ipairs(found) do
      local held, sid = string.match(member, '^(%d+)' .. US .. '%d+' .. US .. '(.*)$', #limit + 2)
      found[i] = { sid = sid, held = tonumber(held) }
    end
    return found
  end

  -- How many have none of its units.
  local function count_without(limit)
    local none = limit .. US .. digits(0)
    return are_any and call('ZLEXCOUNT', key.hungry, '[' .. none .. US, '(' .. none .. members.AFTER) or 0
  end

  -- Is this one of the two that a session stands in for a limit of which it has so many units?
  local function is_right(sid, limit, member, held)
    local one = load(sid, limit)
    if not one or tonumber(one.held) ~= held then return false end
    local first_, second = by_limit(sid, limit, one), by_session(sid, limit, one)
    return (member == first_ or member == second) and call('ZSCORE', key.hungry, member == first_ and second or first_)
  end

  hungry = {
    limits_of = limits_of, state = state, moved = moved, fed = fed, first = first, count_without = count_without, is_right = is_right,
  }
end
