-- recover: hand the owner of a partition what was read but never settled, in id order.
--
-- KEYS[1]  ingest stream
-- KEYS[2]  lease
-- ARGV[1]  token
-- ARGV[2]  group
-- ARGV[3]  consumer
-- ARGV[4]  exclusive start: the last id of the page before, or '-'
-- ARGV[5]  most entries to return
-- ARGV[6]  '1' on takeover: the last owner died with these in hand, so a first delivery counts as a second
-- Returns  {created, {{id, deliveries found, {field, value, …} or false}, …}}; created is 1 when the group
--          was missing; false where the entry was deleted. Or the error FENCED
--
-- XPENDING, XCLAIM … JUSTID and XRANGE have one shape since 6.2, unlike XAUTOCLAIM, and together take over
-- what lies under any consumer name. XREADGROUP … 0 would add one to every delivery count, so
-- that a living owner's re-read would make healthy messages look poisonous.
-- A missing group is made at 0, never at $: what is settled has been deleted, so 0 is the watermark. For the
-- same reason the group's cursor goes back to 0 once nothing is pending: whatever still lies on the stream is
-- unsettled and in nobody's hand, even if somebody moved the cursor or acknowledged it by hand.
local held = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if (held[1] or '') .. ':' .. (held[2] or '') ~= ARGV[1] then return redis.error_reply('FENCED not the owner') end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[2], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end

local from = ARGV[4]
local count = tonumber(ARGV[5])
-- 6.2 has exclusive ranges too, but '(-' means nothing.
if from ~= '-' then from = '(' .. from end
local out = {}
local pending = redis.call('XPENDING', KEYS[1], ARGV[2], from, '+', count)
if from == '-' and #pending == 0 then redis.call('XGROUP', 'SETID', KEYS[1], ARGV[2], '0') end
for _, p in ipairs(pending) do
  local id, deliveries = p[1], p[4]
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    local stored = deliveries
    if ARGV[6] == '1' and deliveries < 2 then stored = 2 end
    redis.call('XCLAIM', KEYS[1], ARGV[2], ARGV[3], 0, id, 'RETRYCOUNT', stored, 'JUSTID')
    out[#out + 1] = {id, deliveries, entry[2]}
  else
    -- Deleted by someone else while pending: there is nothing left to settle.
    redis.call('XACK', KEYS[1], ARGV[2], id)
    out[#out + 1] = {id, deliveries, false}
  end
end
return {made.err and 0 or 1, out}
