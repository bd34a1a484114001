-- End a session at once: the worker stops and runs nothing any more.
--
-- Guarantee: what it held is free and handed on before the reply; a late sync of it is refused.
-- ARGV[2] session
-- Reply   {status: "ok"}
-- Cost    O(what it holds and waits for)
expect({ session = session_id })
begin()
end_session(me)
look_at_heartbeats()
finish()
return cjson.encode({ status = 'ok' })
