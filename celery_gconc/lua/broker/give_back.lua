-- Put messages back to the consuming end of the lists that they came from, as if they had never been taken.
--
-- Runs on the broker's Redis, over kombu's own keys, in one step.
-- Guarantee: no message is lost. The last one given is the first to be consumed. A message that someone has restored
--         meanwhile (after the visibility timeout) is there twice: its delivery tag can't tell, for copies of one
--         message in several queues (topic exchanges) share it.
-- KEYS    1 unacked (hash), 2 unacked index (sorted set), 3.. the list of each message
-- ARGV    for each message: delivery tag, payload
-- Reply   OK
-- Cost    O(messages)
for i = 3, #KEYS do
  local tag, payload = ARGV[2 * i - 5], ARGV[2 * i - 4]
  redis.call('ZREM', KEYS[2], tag)
  redis.call('HDEL', KEYS[1], tag)
  redis.call('RPUSH', KEYS[i], payload)
end
return redis.status_reply('OK')
