-- Take the first messages of a list, from its consuming end, whose task is not among the named ones.
--
-- Runs on the broker's Redis, over a list of kombu's. What BRPOP is to a whole list, this is to a part of it.
-- Guarantee: all other messages keep their places, also those that don't name their task in their headers (task
--         protocol 1). What is taken is entered among the unacknowledged at once, as kombu enters it: none is lost.
-- KEYS    1 the list, 2 unacked (hash), 3 unacked index (sorted set)
-- ARGV    1 how many messages to skip, 2 to look at, 3 to take, all at most; 4 the time (s), as kombu's clients have
--         it; 5.. the tasks, as they stand in JSON
-- Reply   {how many were looked at and left, payload...}
-- Cost    O(skipped + looked at); no more than a MiB of messages is looked at (or one message)
local skip, count, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local passed = {}
for i = 5, #ARGV do passed[ARGV[i]] = true end
local reply, left, bytes, step = { 0 }, 0, 0, 5
while left < count and #reply <= most and bytes < 1048576 do
  local messages = redis.call('LRANGE', KEYS[1], -(skip + left + step), -(skip + left + 1))
  if #messages == 0 then break end
  for i = #messages, 1, -1 do
    local task = string.match(messages[i], '"task": ?"([^"]*)"')
    bytes = bytes + #messages[i]
    if not task or passed[task] then
      left = left + 1
    else
      redis.call('LREM', KEYS[1], -1, messages[i])
      local properties = cjson.decode(messages[i]).properties
      local from = properties.delivery_info
      redis.call('HSET', KEYS[2], properties.delivery_tag, '[' .. messages[i] .. ', '
        .. cjson.encode(from.exchange) .. ', ' .. cjson.encode(from.routing_key) .. ']')
      redis.call('ZADD', KEYS[3], ARGV[4], properties.delivery_tag)
      table.insert(reply, messages[i])
      if #reply > most then break end
    end
  end
  step = math.max(1, math.min(100, math.floor(100000 * (left + #reply) / bytes))) -- some 100 kB in one go
end
reply[1] = left
return reply
