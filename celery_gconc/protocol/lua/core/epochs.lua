-- uses: meta server time clock members limits limit_table overrides configs unused sessions heartbeats counters
-- Epochs: lives of the data. And what every script does first.
local epochs
do
  local function shut_until(moment, is_new)
    if moment > (meta.closed_until or clock.at) then
      meta.closed_until = moment
      call('HSET', key.meta, 'closed_until', members.int(moment), 'lost', is_new and '0' or '1')
    end
  end

  -- Another life of the data: all of it was lost, or it went back in time (an old snapshot, a replica that lacked the
  -- last writes). What is here may be out of date, so every limit begins anew: it settles when each session that is
  -- known here has stated what it runs, or run out. For sessions that are not known, nothing is granted for `hold` ms:
  -- whoever lives says something within the longest interval, or, cut off, holds a lease that ends by the longest.
  -- Counters begin at 0, for those who read them take any step back for that.
  -- version_at_loss: of the limit table, where nothing was changed since; a session that knows a later one brings back
  -- what operators had set. Without it the first one does.
  local function begin_epoch(hold, is_new, version_at_loss)
    call('EXPIRE', key.totals, 0)
    meta.epoch = (server.id or '') .. ':' .. members.int(time.now * 1000 + time.us)
    meta.epoch_began = clock.at
    -- (A value of more than 64 bytes has Redis keep the hash as a table, not as a list: each script reads most of it.)
    call('HSET', key.meta, 'is_table', string.rep('-', 65), 'epoch', meta.epoch, 'server_id', server.id or '',
      'epoch_began', members.int(meta.epoch_began), 'overrides_version', members.int(version_at_loss or 0),
      'clock', members.int(clock.at), 'time', members.int(time.now))
    shut_until(clock.at + hold, is_new)
    limit_table.settle_all()
  end

  local function begin_after_loss(version_at_loss)
    local MARGIN = 500 -- ms after an interval within which every session that lives has said something
    begin_epoch(heartbeats.slowest() + MARGIN, false, version_at_loss)
  end

  -- The least that a session's lease lasts: a whole one from the beginning of the epoch. (Its lease here may be as old as
  -- the data were then, and it may have been told a later end before it was cut off.)
  local function least_end(sid)
    return (meta.epoch_began or 0) + (tonumber(call('HGET', key.session, sid .. ':timeout')) or 0)
  end

  -- How many units of sessions that end, and values of configurations that no session uses, this script may still take.
  local work_left = constant.WORK
  local function end_session(sid)
    local is_done, taken, work = sessions.finish(sid, math.max(work_left, 0))
    work_left = work_left - work
    return is_done, taken
  end

  -- The two sessions whose leases end first, and when: before this script changes them.
  local soonest
  local function end_first()
    soonest = soonest or call('ZRANGE', key.sessions, 0, 1, 'WITHSCORES')
    return soonest
  end

  local function end_dead_sessions()
    local first_end = end_first()[2]
    if not first_end or tonumber(first_end) > clock.at then return end
    soonest = nil
    local MAX_DUE, END = 32, 8 -- the end of a session is work itself
    local due = call('ZRANGEBYSCORE', key.sessions, '-inf', members.int(clock.at), 'WITHSCORES', 'LIMIT', 0, MAX_DUE)
    local reclaims = 0
    for i = 1, #due, 2 do
      local sid, least = due[i], least_end(due[i])
      if least > clock.at then
        call('ZADD', key.sessions, members.int(least), sid)
      elseif work_left > 0 then
        local _, taken = end_session(sid)
        work_left = work_left - END
        if tonumber(due[i + 1]) ~= sessions.CLOSED then reclaims = reclaims + taken end
      end
    end
    heartbeats.changed()
    if reclaims > 0 then counters.add({ reclaims = reclaims }) end
  end

  local function end_unused_configs()
    if unused.until_end() == 0 then work_left = work_left - configs.end_unused(work_left) end
  end

  local function begin()
    if not meta.epoch then return end
    clock.save()
    if server.id and server.id ~= meta.server_id then begin_after_loss(meta.version) end
    if meta.closed_until and clock.at >= meta.closed_until then
      meta.closed_until = nil
      call('HDEL', key.meta, 'closed_until', 'lost')
      meta.served_to = ''
    end
    if meta.served_to and not meta.closed_until then limits.serve_lines() end
    limits.take_up()
    end_dead_sessions()
    end_unused_configs()
    if meta.next_override_end and time.now >= meta.next_override_end then overrides.end_due() end
  end

  epochs = {
    shut_until = shut_until, begin_epoch = begin_epoch, begin_after_loss = begin_after_loss, begin = begin, end_first = end_first, end_session = end_session,
    end_unused_configs = end_unused_configs,
  }
end
