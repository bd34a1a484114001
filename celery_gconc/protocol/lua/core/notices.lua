-- uses: nothing
-- What other sessions are to hear when the script is done.
local notices
do
  local all = {} -- by session

  -- The notice to a session: grants, limits (whose contention it is told), offer (its turn came, but it has no room).
  -- The session that calls has it in the reply.
  local function to(sid)
    local notice = all[sid]
    if not notice then
      notice = { grants = {}, limits = {} }
      all[sid] = notice
    end
    return notice
  end

  notices = { all = all, to = to }
end
