-- uses: input meta members overrides epochs reply
-- Bring back what operators had set, as a session remembers it that lived before data was lost: a piece of it.
--
-- Guarantee: what was set since the loss stays, or since the session was told. Nothing is granted meanwhile (open.lua).
--         A piece may come twice, and several may bring back theirs at once: who remembers a later table is the last.
-- ARGV[2] known (the epoch in which it lived), newest (the last version of which it was told the whole table),
--         told_at (wall time, ms: when that was), values (limit -> JSON, as it was told with that, or {}; at most PIECE of them), after (next of the call before;
--         null: nothing is looked for), last (true: this was all)
-- Reply   {status: "ok", names [limit...] (some for which something is set here), next (null: these were the last)}
--         {status: "done"}: there is nothing to bring back
-- Cost    O(limits in the piece)
local int, asked = members.int, input.asked
local short, count = input.short, input.count

local function has_only(kinds)
  return function(it)
    if type(it) ~= 'table' then return false end
    for field, value in pairs(it) do
      if not kinds[field] or not kinds[field](value) then return false end
    end
    return true
  end
end
local mark_kind = has_only({ by = short, at = count, reason = short, ends = count })
local override_kind = has_only({
  max = function(it) return input.whole(it, -1, constant.MAX) end, set = mark_kind, pause = mark_kind,
})
local function set_at_run_time(text) -- an override, as change.lua makes it
  local read, override = pcall(cjson.decode, text)
  return read and override_kind(override)
end
local function piece(it) return input.by_limit(it, set_at_run_time) and input.is_piece(it) end
input.expect({
  known = short, newest = input.sized, told_at = count, values = piece, last = input.flag,
  after = function(it) return it == cjson.null or type(it) == 'string' and string.find(it, '^%d+$') ~= nil and #it < 20 end,
})
epochs.begin()
local restored = tonumber(call('HGET', key.meta, 'overrides_version')) or 0
if not meta.epoch or asked.known == meta.epoch or asked.newest <= restored then
  reply.finish()
  return cjson.encode({ status = 'done' })
end
if asked.newest > meta.version then
  meta.version = asked.newest
  call('HSET', key.meta, 'version', int(meta.version))
end

-- The data may have gone back in time where nobody saw it, and been changed before the epoch began: that is later than
-- all that the session was told.
local function was_changed_since(limit, kind, mark)
  if mark and (mark.at or 0) > asked.told_at then return true end
  local change = call('HGET', key.changes, limit .. members.US .. kind)
  change = change and cjson.decode(change)
  return change and (not change.epoch or change.epoch == meta.epoch or change.at > asked.told_at)
end
for limit, text in pairs(asked.values) do
  local override, told = overrides.of(limit), cjson.decode(text)
  if not was_changed_since(limit, 'value', override.set) then override.max, override.set = told.max, told.set end
  if not was_changed_since(limit, 'pause', override.pause) then override.pause = told.pause end
  overrides.set(limit, override)
end
if asked.last then call('HSET', key.meta, 'overrides_version', int(asked.newest)) end
reply.finish()

local names, next_at = {}, cjson.null
if asked.after ~= cjson.null then
  local at, fields = unpack(call('HSCAN', key.overrides, asked.after, 'COUNT', constant.PIECE))
  for i = 1, #fields, 2 do table.insert(names, fields[i]) end
  if at ~= '0' then next_at = at end
end
return cjson.encode({ status = 'ok', names = #names > 0 and names or nil, next = next_at })
