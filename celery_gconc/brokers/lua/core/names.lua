-- uses: nothing
-- Whether a message is a task's own.
--
-- Guarantee: none is missed as kombu writes it, with its headers and properties in JSON; one that only names the task
--         (its children do, as their parent) is not taken for it.
local function names(message, id)
  local at = string.find(message, id, 1, true)
  while at do
    local field = string.match(string.sub(message, math.max(at - 40, 1), at - 1), '"([%w_]+)"%s*:%s*$')
    if field == 'id' or field == 'correlation_id' then return true end
    at = string.find(message, id, at + 1, true)
  end
end
