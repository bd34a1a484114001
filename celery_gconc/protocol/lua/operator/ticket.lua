-- uses: input
-- doesn't begin: a number is all that it reads or writes
-- Take the number by which a change that is announced now takes its turn among all changes.
--
-- Guarantee: every ticket is above all those before it.
-- ARGV[2] {}
-- Reply   {status: "ok", ticket}
-- Cost    O(1)
input.expect({})
return cjson.encode({ status = 'ok', ticket = call('HINCRBY', key.meta, 'ticket', 1) })
