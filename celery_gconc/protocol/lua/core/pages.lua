-- uses: input
-- Pages: scripts for people reply with a part, and with `next`, where to go on; who asks hands it back as `after`.
--
-- What it says is theirs alone. The first page has none to go on from, the last one has no next.
local pages
do
  -- How many limits, sessions or requests a page has, about: each takes some ten steps.
  local SIZE = math.ceil(constant.LOOKS / 8)
  -- How many characters of JSON a page reads, about, that others wrote: a worker may run, or be configured with, thousands.
  local TEXT = constant.LOOKS * 250

  local after = input.asked.after
  if after == cjson.null then after = nil end
  local function may_be_after(it) return it == cjson.null or type(it) == 'string' and #it <= 8192 end

  -- Where a scan goes on; scanned: what Redis replied.
  local function cursor(text) return text == nil or string.find(text, '^%d+$') ~= nil and #text < 20 end

  pages = { SIZE = SIZE, TEXT = TEXT, after = after, may_be_after = may_be_after, cursor = cursor }
end
