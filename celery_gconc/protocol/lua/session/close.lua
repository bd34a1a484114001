-- uses: input unused epochs sessions heartbeats reply
-- End a session at once: the worker stops and runs nothing any more.
--
-- Guarantee: what it held is free and handed on before the last reply; a late sync of it is refused.
-- ARGV[2] session
-- Reply   {status: "ok", more (true: it is to be called again, or other scripts do the rest)}
-- Cost    O(what it holds, waits for and alone is configured with), a bounded part of it in each call
input.expect({ session = input.session_id })
epochs.begin()
sessions.close(input.asked.session)
local is_done = epochs.end_session(input.asked.session)
epochs.end_unused_configs()
heartbeats.changed()
reply.finish()
return cjson.encode({ status = 'ok', more = not is_done or unused.until_end() == 0 })
