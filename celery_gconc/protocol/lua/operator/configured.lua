-- uses: input pages configs epochs reply
-- What sessions of one configuration are configured with.
--
-- Guarantee: what counts from the first page to the last is told once. A configuration that no session has any more goes
--         piece by piece.
-- ARGV[2] digest; after (null, or next of the page before)
-- Reply   {status: "ok", values: {limit -> max}, next}
-- Cost    O(LOOKS)
local asked = input.asked
input.expect({ digest = input.digest, after = pages.may_be_after })
epochs.begin()
reply.finish()
local values, next_at = configs.some_of(asked.digest, constant.LOOKS, pages.after)
return cjson.encode({ status = 'ok', values = values, next = next_at })
