-- uses: input meta limits grants serving contention notices news
-- What every script does last: serve what was touched, and tell the other sessions.
local reply
do
  local function finish()
    limits.open_settled()
    if limits.are_some_touched() then serving.serve_all() end
    if limits.were_some_touched() then serving.feed_all() end
    if meta.fence ~= meta.fence_before then grants.save_fence() end
    local has_changed = meta.version ~= meta.version_before
    if has_changed or meta.untold > 0 then news.tell() end
    if has_changed or limits.were_some_gone() then news.forget_gone() end
    for sid, notice in pairs(notices.all) do
      if sid ~= input.me then
        if #notice.grants == 0 then notice.grants = nil end
        notice.recall, notice.shares = contention.recall(notice.limits, sid)
        notice.limits = nil
        call('PUBLISH', ARGV[1] .. sid, cjson.encode(notice))
      end
    end
  end

  reply = { finish = finish }
end
