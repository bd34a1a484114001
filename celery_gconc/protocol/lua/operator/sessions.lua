-- uses: input pages members clock running rooms heartbeats epochs reply
-- The live sessions: who they are, and what they do.
--
-- Guarantee: one instant for those of one page. A session that lives from the first page to the last is told once.
-- ARGV[2] after (null, or next of the page before)
-- Reply   {status: "ok", sessions: [{session, lease (ms left), interval and timeout (ms), permits, waiting, room, config (a
--          digest: configured.lua tells what it has), and as JSON, in text: info, queues, stall (or absent): {why, slots,
--          since (ms)} where it starts nothing though slots are free}...], next}
-- Cost    O(SIZE sessions, and their tasks)
input.expect({ after = pages.may_be_after })
epochs.begin()
reply.finish()
local US = members.US
local FIELDS = { 'info', 'config', 'queues', 'stall', 'interval', 'timeout' }

local found, text, next_at = {}, 0, nil
local function add(sid, lease)
  local names = {}
  for i, field in ipairs(FIELDS) do names[i] = sid .. ':' .. field end
  local told = call('HMGET', key.session, unpack(names))
  for i = 1, 4 do text = text + #(told[i] or '') end
  local runs, size = running.of(sid)
  text = text + size
  table.insert(found, {
    session = sid, lease = lease - clock.at, permits = #runs, room = rooms.of(sid),
    waiting = tonumber(call('HGET', key.sums, US .. sid)) or 0,
    info = told[1] or '{}', config = told[2] or '', queues = told[3] or '[]', stall = told[4] or nil,
    interval = tonumber(told[5]) or 0, timeout = tonumber(told[6]) or 0,
  })
end

-- All heartbeats of a kind, by their length, then by name: nothing of that changes while a session lives.
local from = '[' .. heartbeats.INTERVAL
if pages.after and string.sub(pages.after, 1, #heartbeats.INTERVAL) == heartbeats.INTERVAL then from = '(' .. pages.after end
local to = '(' .. string.sub(heartbeats.INTERVAL, 1, -2) .. members.AFTER
local page = call('ZRANGEBYLEX', key.heartbeats, from, to, 'LIMIT', 0, pages.SIZE)
for i, member in ipairs(page) do
  local sid = string.match(member, '([^' .. US .. ']*)$')
  local lease = tonumber(call('ZSCORE', key.sessions, sid)) or 0
  if lease > clock.at then add(sid, lease) end
  if text > pages.TEXT or i == pages.SIZE then
    next_at = member
    break
  end
end
return cjson.encode({ status = 'ok', sessions = found, next = next_at })
