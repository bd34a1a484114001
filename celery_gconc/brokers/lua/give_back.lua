-- uses: nothing
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
if #KEYS < 3 or #ARGV ~= 2 * (#KEYS - 2) then
  return redis.error_reply('ERR celery-gconc: not the keys and arguments of this script')
end
for i = 3, #KEYS do -- in this order: where the last fails, it is there twice, not lost
  local tag, payload = ARGV[2 * i - 5], ARGV[2 * i - 4]
  redis.call('RPUSH', KEYS[i], payload)
  redis.call('ZREM', KEYS[2], tag)
  redis.call('HDEL', KEYS[1], tag)
end
return redis.status_reply('OK')
