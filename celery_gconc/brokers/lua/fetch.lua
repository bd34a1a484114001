-- uses: envelope
-- Take the first messages of a queue, from the consuming ends of its lists.
--
-- Runs on the broker's Redis, over lists of kombu's. What its BRPOP does in two round trips, this does in one.
-- Guarantee: what is taken is entered among the unacknowledged at once, as kombu enters it: none is lost. Nothing behind what
--         is no message of kombu's is taken: that is left to kombu.
-- KEYS    1 unacked (hash), 2 unacked index (sorted set), 3.. the queue's lists, the most urgent first
-- ARGV    1 how many to take, at most; 2 the time (s), as kombu's clients have it
-- Reply   {payload...}
-- Cost    O(taken); no more than a MiB of messages is taken (or one message)
local most, time = tonumber(ARGV[1]), tonumber(ARGV[2])
if #KEYS < 3 or not (most and most >= 0 and most < 2 ^ 31 and most % 1 == 0 and time and time >= 0 and time < 2 ^ 53) then
  return redis.error_reply('ERR celery-gconc: not the keys and arguments of this script')
end
local reply, bytes = {}, 0
for i = 3, #KEYS do
  while #reply < most and bytes < 1048576 do
    local message = redis.call('LRANGE', KEYS[i], -1, -1)[1]
    if not message then break end
    local tag, from = envelope.delivery(message)
    if not tag then return reply end
    -- in this order: where the last fails, it is there twice, not lost
    redis.call('HSET', KEYS[1], tag, '[' .. message .. ', ' .. from .. ']')
    redis.call('ZADD', KEYS[2], ARGV[2], tag)
    redis.call('LREM', KEYS[i], -1, message) -- that one: it is the last
    table.insert(reply, message)
    bytes = bytes + #message
  end
end
return reply
