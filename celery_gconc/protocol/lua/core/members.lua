-- uses: nothing
-- How the members of the sorted sets are written. In sets ordered by name, what begins alike stands together.
local members
do
  local US = '\31'    -- between a limit's name and the rest of a member; names have no control characters
  local AFTER = '\32' -- the byte after it: the end of a limit's range
  local WAITING = '000000000000' -- in place of the grant number of a request that waits

  local function int(number) return string.format('%.0f', number) end

  -- The range of a limit's members.
  local function first(limit) return '[' .. limit .. US end
  local function last(limit) return '(' .. limit .. AFTER end

  -- The session that a request, or a waiter's member, is of.
  local function owner(id) return string.match(id, '^([^:]*):') end
  local function owner_of_waiter(member) return owner(string.match(member, US .. '%d+' .. US .. '(.*)$')) end

  local function roll_member(id, grant)
    local sid, number = string.match(id, '^([^:]*):(.*)$')
    return string.format('%s:%012.0f:%s', sid, grant, number)
  end
  local function roll_of(sid) return '[' .. sid .. ':', '(' .. sid .. ';' end
  local function waiting_roll_of(sid)
    return '[' .. sid .. ':' .. WAITING .. ':', '(' .. sid .. ':' .. WAITING .. ';'
  end
  local function roll_since(sid, grant) return string.format('[%s:%012.0f:', sid, grant), '(' .. sid .. ';' end
  local function read_roll(member) return string.match(member, ':(%d+):(.*)$') end

  -- Where a waiter stands in a line: its arrival, and its id among those that came at once.
  local function order_key(id, record) return record.a .. US .. id end

  members = {
    US = US, AFTER = AFTER, int = int, first = first, last = last, owner = owner, owner_of_waiter = owner_of_waiter,
    roll_member = roll_member, roll_of = roll_of, waiting_roll_of = waiting_roll_of, roll_since = roll_since,
    read_roll = read_roll, order_key = order_key,
  }
end
