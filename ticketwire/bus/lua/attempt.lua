-- attempt: write down how often an entry has been tried alone.
--
-- KEYS[1]  ingest stream
-- KEYS[2]  lease
-- ARGV[1]  token
-- ARGV[2]  group
-- ARGV[3]  consumer
-- ARGV[4]  entry id
-- ARGV[5]  delivery count to store
-- Returns  1, or the error FENCED
--
-- Written before the entry is handled, because a poisonous one leaves no time afterwards.
local held = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if (held[1] or '') .. ':' .. (held[2] or '') ~= ARGV[1] then return redis.error_reply('FENCED not the owner') end
redis.call('XCLAIM', KEYS[1], ARGV[2], ARGV[3], 0, ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')
return 1
