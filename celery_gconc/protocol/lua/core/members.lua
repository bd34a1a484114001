-- uses: nothing
-- How the members of the sorted sets are written. In sets ordered by name, what begins alike stands together.
local members
do
  local US = '\31'    -- between a limit's name and the rest of a member; names have no control characters
  local AFTER = '\32' -- the byte after it: the end of a limit's range

  local function int(number) return string.format('%.0f', number) end

  -- Fields of a hash, in few calls.
  local function fields(hash, names)
    local MAX_ARGUMENTS = 1000
    if #names <= MAX_ARGUMENTS then return #names > 0 and call('HMGET', hash, unpack(names)) or {} end
    local found = {}
    for first = 1, #names, MAX_ARGUMENTS do
      local some = call('HMGET', hash, unpack(names, first, math.min(first + MAX_ARGUMENTS - 1, #names)))
      for i = 1, #some do found[first + i - 1] = some[i] end
    end
    return found
  end

  -- The range of a limit's members.
  local function first(limit) return '[' .. limit .. US end
  local function last(limit) return '(' .. limit .. AFTER end

  -- The session that a want is of, by its id.
  local function owner(id) return string.match(id, '^([^:]*):') end

  -- Where a want stands in a line: the arrival of its first request, and its id among those that came at once.
  local function order_key(id, record) return record.r[1][1] .. US .. id end

  members = {
    US = US, AFTER = AFTER, int = int, fields = fields, first = first, last = last, owner = owner, order_key = order_key,
  }
end
