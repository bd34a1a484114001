-- uses: input meta configs epochs reply
-- Take a piece of a configuration that a session is to open with, where this Redis doesn't have it whole.
--
-- Guarantee: what is taken counts at once; for as long as a lease of the sender's, unless a session opens with it. Several
--         may send the same one at once, and a piece may come twice.
-- ARGV[2] digest (of all of it), values (limit -> max, at most PIECE of its limits), timeout (ms; a lease of the sender's)
-- Reply   {status: "ok", whole (whether this Redis has all of it now)}
--         {status: "closed"}: all data was lost; open first
-- Cost    O(limits in the piece)
local asked = input.asked
local function piece(it) return input.configuration(it) and input.is_piece(it) end
input.expect({ digest = input.digest, values = piece, timeout = input.milliseconds })
epochs.begin()
if not meta.epoch then return cjson.encode({ status = 'closed' }) end
configs.take(asked.digest, asked.values, asked.timeout)
reply.finish()
return cjson.encode({ status = 'ok', whole = configs.is_whole(asked.digest) })
