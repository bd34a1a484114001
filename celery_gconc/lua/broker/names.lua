-- What comes before the scripts that look for a task's message (find_in_list, find_taken).
--
-- Whether a message of kombu's is that of a task, by its id as it stands in JSON, with its quotes: its own id is among
-- the fields. (Its children name it too, as their parent.)
local function names(message, id)
  local at = string.find(message, id, 1, true)
  while at do
    local field = string.match(string.sub(message, math.max(at - 40, 1), at - 1), '"([%w_]+)"%s*:%s*$')
    if field == 'id' or field == 'correlation_id' then return true end
    at = string.find(message, id, at + 1, true)
  end
end
