-- uses: meta members
-- Sums, so that nobody walks to see how many there are: of each limit the requests that wait in its line, the units that
-- lie idle and the requests that are parked; of each session the requests that wait.
--
-- SUMS has `<limit> US waiting`, `<limit> US idle`, `<limit> US parked` and `US <session>`, where it isn't 0. Whoever changes a
-- part changes the sum in the same script. `<limit> US broker` is no sum: see parked.lua.
local sums
do
  local US = members.US
  local WAITING, IDLE, PARKED, BROKER = US .. 'waiting', US .. 'idle', US .. 'parked', US .. 'broker'

  local function set(field, sum)
    if sum == 0 then call('HDEL', key.sums, field) else call('HSET', key.sums, field, members.int(sum)) end
  end
  local function add(field, more)
    if more ~= 0 and call('HINCRBY', key.sums, field, members.int(more)) == 0 then call('HDEL', key.sums, field) end
  end

  -- By bytes, as in sorted sets; what Lua does depends on the server's locale.
  local function is_up_to(member, last)
    for i = 1, math.min(#member, #last) do
      local one, other = string.byte(member, i), string.byte(last, i)
      if one ~= other then return one < other end
    end
    return #member <= #last
  end

  -- Where an audit adds up the parts of a sum in several scripts, it learns what becomes of those that it has passed.
  -- what: 'held', or how a field of SUMS ends or begins.
  local function note(what, group, member, more)
    if not meta.audit then return end
    if meta.audit == what .. group and is_up_to(member, call('HGET', key.meta, 'audited_to') or '') then
      call('HINCRBY', key.meta, 'audited', members.int(more))
    end
  end

  sums = { WAITING = WAITING, IDLE = IDLE, PARKED = PARKED, BROKER = BROKER, set = set, add = add, note = note }
end
