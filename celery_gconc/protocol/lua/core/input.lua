-- uses: nothing
-- What the script is asked, and whether that is what it takes.
--
-- A script first says what it takes, by `expect`: anything else is an error, and nothing has been written yet (Redis
-- does not take back what a script wrote before it failed).
--
-- KEYS    the keyspace, in the order of keys.py
-- ARGV[1] channel prefix of notices
-- ARGV[2] JSON, what the script is asked to do
-- Reply   JSON, each script its own
local input
do
  if #KEYS ~= constant.KEYS or #ARGV ~= 2 or ARGV[1] == '' then
    error('celery-gconc: not the keys and arguments of this script')
  end
  local asked = cjson.decode(ARGV[2])

  local function whole(it, least, greatest) -- (-0 would be written with its sign)
    return type(it) == 'number' and it % 1 == 0 and it >= least and it <= greatest and (it ~= 0 or 1 / it > 0)
  end
  local function short(it) return type(it) == 'string' and #it <= 4096 end
  local function flag(it) return it == true or it == false end
  local function count(it) return whole(it, 0, 9e15) end
  local function integer(it) return whole(it, -9e15, 9e15) end
  local function grant_number(it) return whole(it, 1, 999999999999) end -- sorted by its twelve digits
  local function sized(it) return whole(it, 0, 9e13) end               -- JSON carries fourteen digits
  local function milliseconds(it) return whole(it, 1, 2 ^ 31) end
  local function session_id(it)
    return type(it) == 'string' and #it <= 64 and string.find(it, '^[%w_.-]+$') ~= nil
  end

  local function every(list, kind) -- JSON: a table is an array or an object, whose keys are strings
    if type(list) ~= 'table' or (#list == 0 and next(list) ~= nil) then return false end
    for i = 1, #list do
      if not kind(list[i]) then return false end
    end
    return true
  end

  local good_names = {}
  local function limit_name(it)
    if good_names[it] then return true end
    if not short(it) or it == '' or string.find(it, '%c') then return false end
    good_names[it] = true
    return true
  end

  local function by_limit(it, kind)
    if type(it) ~= 'table' then return false end
    for limit, value in pairs(it) do
      if not limit_name(limit) or not kind(value) then return false end
    end
    return true
  end
  local function is_piece(it) -- of a table that is sent in pieces
    local number = 0
    for _ in pairs(it) do number = number + 1 end
    return number <= constant.PIECE
  end
  local function configured_max(it) return whole(it, 0, constant.MAX) end
  local function configuration(it) return by_limit(it, configured_max) end
  local function digest(it) return type(it) == 'string' and #it <= 64 and string.find(it, '^%d+%-%x+$') ~= nil end

  -- A claim is [limit, weight]; there is one for each limit.
  local function claims(it)
    if type(it) ~= 'table' or not it[1] then return false end
    local seen = {}
    for i = 1, #it do
      local claim = it[i]
      if type(claim) ~= 'table' or #claim ~= 2 or not whole(claim[2], 1, constant.MAX)
        or not (good_names[claim[1]] or limit_name(claim[1])) or seen[claim[1]] then
        return false
      end
      seen[claim[1]] = true
    end
    return true
  end

  -- A request that waits, and a want with those of its requests that are new.
  local function is_request(row)
    if type(row) ~= 'table' then return false end
    local age, id, name = row[ROW.age], row[ROW.task_id], row[ROW.task]
    return whole(age, -1e18, 1e18) and short(id) and short(name)
  end
  local function is_want(row)
    return type(row) == 'table' and whole(row[WANT.set], 1, 9e13) and claims(row[WANT.claims])
      and count(row[WANT.skip]) and count(row[WANT.kept]) and every(row[WANT.requests], is_request)
      and (row[WANT.queue_limit] == nil or limit_name(row[WANT.queue_limit]))
  end
  local function wants_(it) -- one for each set
    if not every(it, is_want) then return false end
    local seen = {}
    for i = 1, #it do
      local set = it[i][WANT.set]
      if seen[set] then return false end
      seen[set] = true
    end
    return true
  end

  local function expect(kinds)
    for field, kind in pairs(kinds) do
      if not kind(asked[field]) then error('celery-gconc: not what this script takes as ' .. field) end
    end
  end

  input = {
    asked = asked, me = asked.session, expect = expect, whole = whole, short = short, flag = flag, count = count,
    integer = integer, grant_number = grant_number, sized = sized, milliseconds = milliseconds, session_id = session_id,
    every = every, limit_name = limit_name, by_limit = by_limit, is_piece = is_piece, configuration = configuration,
    digest = digest, claims = claims, wants = wants_,
  }
end
