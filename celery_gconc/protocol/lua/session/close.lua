-- uses: input epochs sessions heartbeats reply
-- End a session at once: the worker stops and runs nothing any more.
--
-- Guarantee: what it held is free and handed on before the reply; a late sync of it is refused.
-- ARGV[2] session
-- Reply   {status: "ok"}
-- Cost    O(what it holds and waits for)
input.expect({ session = input.session_id })
epochs.begin()
sessions.finish(input.asked.session)
heartbeats.changed()
reply.finish()
return cjson.encode({ status = 'ok' })
