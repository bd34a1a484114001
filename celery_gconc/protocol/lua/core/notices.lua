-- uses: nothing
-- What other sessions are to hear when the script is done.
local notices
do
  local all = {} -- by session

  -- The notice to a session: grants, limits (whose contention it is told), offer.
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
