-- uses: meta limits grants serving contention notices
-- What every script does last: serve what was touched, and tell the other sessions.
local reply
do
  local function finish()
    limits.open_settled()
    serving.serve_all()
    grants.save_fence()
    if limits.has_changed() then
      call('PUBLISH', ARGV[1] .. 'table', cjson.encode({ version = meta.version })) -- to all sessions
    end
    for sid, notice in pairs(notices.all) do
      if #notice.grants == 0 then notice.grants = nil end
      notice.recall = contention.recall(notice.limits, sid)
      notice.limits = nil
      call('PUBLISH', ARGV[1] .. sid, cjson.encode(notice))
    end
  end

  reply = { finish = finish }
end
