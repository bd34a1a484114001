-- uses: nothing
-- Remove the messages of some tasks from a list. Looks at a part of it, from the producers' end.
--
-- Runs on the broker's Redis, over a list of kombu's.
-- Guarantee: none that stays in the list from the first call to the last is missed, for new messages push the others on
--         in the direction of the search. All others keep their places, also what is no message of kombu's, and those
--         that don't name their task in their headers (task protocol 1).
-- KEYS    1 the list
-- ARGV    1 from which index; 2 how many to look at, at most; 3 with what the names of tasks begin that stay, where all
--         others go (else empty); 4.. the tasks that go, as they stand in JSON
-- Reply   {how many were looked at and left, how many were removed}
-- Cost    O(index + looked at), and O(index) for each that is removed; no more than a MiB of messages is looked at (or
--         one message)
local from, most, but = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local function whole(number) return number and number >= 0 and number < 2 ^ 31 and number % 1 == 0 end
if #KEYS ~= 1 or #ARGV < 3 or not whole(from) or not whole(most) then
  return redis.error_reply('ERR celery-gconc: not the keys and arguments of this script')
end
-- Whether the headers of a message name its task.
local function is_named(message)
  local read, found = pcall(cjson.decode, message)
  local headers = read and type(found) == 'table' and found.headers
  return type(headers) == 'table' and type(headers.task) == 'string'
end
local goes = {}
for i = 4, #ARGV do goes[ARGV[i]] = true end
local left, removed, bytes, step = 0, 0, 0, 5
while left + removed < most and bytes < 1048576 do
  local messages = redis.call('LRANGE', KEYS[1], from + left, from + left + math.min(step, most - left - removed) - 1)
  if #messages == 0 then break end
  for _, message in ipairs(messages) do
    local task = string.match(message, '"task": ?"([^"]*)"')
    bytes = bytes + #message
    local is_asked = task and (goes[task] or (but ~= '' and string.sub(task, 1, #but) ~= but))
    if is_asked and is_named(message) then
      removed = removed + redis.call('LREM', KEYS[1], 1, message)
    else
      left = left + 1
    end
  end
  step = math.max(1, math.min(100, math.floor(100000 * (left + removed) / bytes))) -- some 100 kB in one go
end
return { left, removed }
