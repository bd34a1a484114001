-- Put messages back to the consuming end of the lists that they came from, as if they had never been taken.
--
-- Runs on the broker's Redis, over kombu's own keys. One step: no message is lost, none is there twice.
-- Guarantee: a message that is no longer this consumer's (restored meanwhile, after the visibility timeout) is left
--         alone. The last one given is the first to be consumed.
-- KEYS    1 unacked (hash), 2 unacked index (sorted set), 3.. the list of each message
-- ARGV    for each message: delivery tag, payload
-- Reply   how many were put back
-- Cost    O(messages)
local returned = 0
for i = 3, #KEYS do
  local tag, payload = ARGV[2 * i - 5], ARGV[2 * i - 4]
  redis.call('ZREM', KEYS[2], tag)
  if redis.call('HDEL', KEYS[1], tag) == 1 then
    redis.call('RPUSH', KEYS[i], payload)
    returned = returned + 1
  end
end
return returned
