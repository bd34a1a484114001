-- uses: input time members grants
-- Which tasks run under limits, for people: as their sessions last stated, with what was granted since.
--
-- RUNNING has, of each session, the time of its last statement (ms) and a JSON list of RUN rows; OVER has the ids of
-- those of these tasks that have ended since, each between two members.US.
local running
do
  local US = members.US

  local function state(sid, text)
    call('HSET', key.running, sid, members.int(time.now) .. ' ' .. text)
    call('HDEL', key.session, sid .. ':over')
  end
  local function have_ended(sid, task_ids)
    if #task_ids == 0 then return end
    local over = call('HGET', key.session, sid .. ':over') or US
    call('HSET', key.session, sid .. ':over', over .. table.concat(task_ids, US) .. US)
  end
  local function forget(sid) call('HDEL', key.running, sid) end

  -- Nobody has read what a session stated until somebody asks.
  local function is_run(row)
    return type(row) == 'table' and input.claims(row[RUN.claims]) and input.short(row[RUN.task_id])
      and input.short(row[RUN.task]) and input.count(row[RUN.age])
  end
  local function read(text)
    local is_readable, rows = pcall(cjson.decode, text)
    return is_readable and type(rows) == 'table' and rows or {}
  end

  -- What a session stated, without what has ended since; each: claims, id, task, since (wall time, ms).
  local function stated(sid, text)
    local over = call('HGET', key.session, sid .. ':over') or ''
    local at, rows = string.match(text, '^(%d+) (.*)$')
    local found = {}
    for _, row in ipairs(read(rows)) do
      if is_run(row) and not string.find(over, US .. row[RUN.task_id] .. US, 1, true) then
        table.insert(found, {
          claims = row[RUN.claims], id = row[RUN.task_id], task = row[RUN.task],
          since = tonumber(at) - row[RUN.age],
        })
      end
    end
    return found
  end
  local function granted(row)
    return {
      claims = row[GRANT.claims], since = row[GRANT.at], id = row[GRANT.at + 1], task = row[GRANT.at + 2],
    }
  end

  -- All that a session runs, and how long the text is that it said so with.
  local function of(sid)
    local text = call('HGET', key.running, sid)
    local found = text and stated(sid, text) or {}
    for _, row in ipairs(grants.all(sid)) do
      if row[GRANT.set] > 0 then table.insert(found, granted(row)) end -- else its units are for what the session reads
    end
    return found, text and #text or 0
  end

  local function covers(claims, limit)
    for _, claim in ipairs(claims) do
      if claim[1] == limit then return claim[2] end
    end
    return nil
  end

  running = {
    state = state, have_ended = have_ended, forget = forget, stated = stated, granted = granted, of = of, covers = covers,
  }
end
