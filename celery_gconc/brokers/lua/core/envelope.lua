-- uses: nothing
-- What kombu puts around a task: its message, in JSON.
local envelope
do
  -- Is it the message of this task? None is missed as kombu writes it, with its headers and properties in JSON; one that
  -- only names the task (its children do, as their parent) is not taken for it.
  local function is_of(message, id)
    local at = string.find(message, id, 1, true)
    while at do
      local field = string.match(string.sub(message, math.max(at - 40, 1), at - 1), '"([%w_]+)"%s*:%s*$')
      if field == 'id' or field == 'correlation_id' then return true end
      at = string.find(message, id, at + 1, true)
    end
  end

  -- What kombu needs of a message that is delivered: its tag, and where it was sent. Nil where it is none of kombu's.
  local function delivery(message)
    local read, found = pcall(cjson.decode, message)
    local properties = read and type(found) == 'table' and found.properties
    local tag = type(properties) == 'table' and properties.delivery_tag
    local from = type(properties) == 'table' and properties.delivery_info
    if type(tag) ~= 'string' or type(from) ~= 'table' then return nil end
    if type(from.exchange) ~= 'string' or type(from.routing_key) ~= 'string' then return nil end
    return tag, cjson.encode(from.exchange) .. ', ' .. cjson.encode(from.routing_key)
  end

  envelope = { is_of = is_of, delivery = delivery }
end
