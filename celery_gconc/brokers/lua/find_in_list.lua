-- uses: envelope
-- Where a task's message stands in a list of kombu's. Looks at a part of it, from the producers' end; changes nothing.
--
-- Runs on the broker's Redis, over a list of kombu's.
-- Guarantee: none that stays in the list from the first call to the last is missed, for new messages push the others on
--         in the direction of the search; one may be looked at twice.
-- KEYS    1 the list
-- ARGV    1 the task's id, as it stands in JSON, with its quotes; 2 from which index; 3 how many at most
-- Reply   {messages in the list, how many were looked at, index of the first that names the task by its id (absent),
--         that message}
-- Cost    O(index + looked at); no more than a MiB of messages is looked at (or one message)
local id, from, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local function whole(number) return number and number >= 0 and number < 2 ^ 31 and number % 1 == 0 end
if #KEYS ~= 1 or #ARGV ~= 3 or id == '' or not whole(from) or not whole(most) then
  return redis.error_reply('ERR celery-gconc: not the keys and arguments of this script')
end
local looked, bytes, step = 0, 0, 5
while looked < most and bytes < 1048576 do
  local last = from + looked + math.min(step, most - looked) - 1
  local messages = redis.call('LRANGE', KEYS[1], from + looked, last)
  if #messages == 0 then break end
  for i, message in ipairs(messages) do
    if envelope.is_of(message, id) then return { redis.call('LLEN', KEYS[1]), looked + i, from + looked + i - 1, message } end
    bytes = bytes + #message
  end
  looked = looked + #messages
  step = math.max(1, math.min(100, math.floor(100000 * looked / bytes))) -- some 100 kB in one go
end
return { redis.call('LLEN', KEYS[1]), looked }
