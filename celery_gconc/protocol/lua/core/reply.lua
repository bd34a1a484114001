-- uses: input meta limits permits serving contention notices
-- What every script does last: serve what was touched, and tell the other sessions.
local reply
do
  local function finish()
    limits.open_settled()
    serving.serve_all()
    permits.save_fence()
    if limits.has_changed() then
      for _, sid in ipairs(call('ZRANGE', key.sessions, 0, -1)) do
        if sid ~= input.me then notices.to(sid).version = meta.version end
      end
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
