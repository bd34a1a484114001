-- Take the number by which a change that is announced now takes its turn among all changes.
--
-- Guarantee: every ticket is above all those before it.
-- ARGV[2] {}
-- Reply   {status: "ok", ticket}
-- Cost    O(1)
expect({})
return cjson.encode({ status = 'ok', ticket = call('HINCRBY', META, 'ticket', 1) })
