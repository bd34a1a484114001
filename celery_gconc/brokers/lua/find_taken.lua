-- uses: envelope
-- A task's messages among those that workers have taken and not acknowledged. Looks at a part; changes nothing.
--
-- Runs on the broker's Redis, over kombu's own keys.
-- Guarantee: what was there from the first call (cursor "0") to the last (cursor "0" replied) is found.
-- KEYS    1 unacked (hash), 2 unacked index (sorted set)
-- ARGV    1 the task's id, as it stands in JSON, with its quotes; 2 cursor
-- Reply   {cursor, how many were looked at, and of each that was found: [message, exchange, routing key] as kombu keeps
--         it, when it was taken (s, as text)}
-- Cost    O(100)
local id, cursor = ARGV[1], ARGV[2]
if #KEYS ~= 2 or #ARGV ~= 2 or id == '' or not string.find(cursor, '^%d+$') then
  return redis.error_reply('ERR celery-gconc: not the keys and arguments of this script')
end
local next_cursor, pairs_ = unpack(redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 100))
local reply = { next_cursor, #pairs_ / 2 }
for i = 1, #pairs_, 2 do
  if envelope.is_of(pairs_[i + 1], id) then
    table.insert(reply, pairs_[i + 1])
    table.insert(reply, redis.call('ZSCORE', KEYS[2], pairs_[i]) or '')
  end
end
return reply
