-- uses: envelope
-- Take the first messages of a list, from its consuming end, whose task is not among the named ones.
--
-- Runs on the broker's Redis, over a list of kombu's. What BRPOP is to a whole list, this is to a part of it.
-- Guarantee: all other messages keep their places, also those that don't name their task in their headers (task
--         protocol 1), and what is no message of kombu's. What is taken is entered among the unacknowledged at once, as kombu enters it: none is lost.
-- KEYS    1 the list, 2 unacked (hash), 3 unacked index (sorted set)
-- ARGV    1 how many messages to skip, 2 to look at, 3 to take, all at most; 4 the time (s), as kombu's clients have
--         it; 5.. the tasks, as they stand in JSON
-- Reply   {how many were looked at and left, payload...}
-- Cost    O(skipped + looked at); no more than a MiB of messages is looked at (or one message)
local skip, count, most, time = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local function whole(number) return number and number >= 0 and number < 2 ^ 31 and number % 1 == 0 end
if #KEYS ~= 3 or not (whole(skip) and whole(count) and whole(most) and time and time >= 0 and time < 2 ^ 53) then
  return redis.error_reply('ERR celery-gconc: not the keys and arguments of this script')
end
local passed = {}
for i = 5, #ARGV do passed[ARGV[i]] = true end
local reply, left, bytes, step = { 0 }, 0, 0, 5
while left < count and #reply <= most and bytes < 1048576 do
  local messages = redis.call('LRANGE', KEYS[1], -(skip + left + step), -(skip + left + 1))
  if #messages == 0 then break end
  for i = #messages, 1, -1 do
    local task = string.match(messages[i], '"task": ?"([^"]*)"')
    local tag, from
    if task and not passed[task] then tag, from = envelope.delivery(messages[i]) end
    bytes = bytes + #messages[i]
    if not tag then
      left = left + 1
    else -- in this order: where the last fails, it is there twice, not lost
      redis.call('HSET', KEYS[2], tag, '[' .. messages[i] .. ', ' .. from .. ']')
      redis.call('ZADD', KEYS[3], ARGV[4], tag)
      redis.call('LREM', KEYS[1], -1, messages[i])
      table.insert(reply, messages[i])
      if #reply > most then break end
    end
  end
  step = math.max(1, math.min(100, math.floor(100000 * (left + #reply) / bytes))) -- some 100 kB in one go
end
reply[1] = left
return reply
