-- read: hand the owner of a partition its next new entries.
--
-- KEYS[1]  ingest stream   of the partition
-- KEYS[2]  lease
-- ARGV[1]  token           `<owner>:<epoch>` the caller believes it holds
-- ARGV[2]  group
-- ARGV[3]  consumer
-- ARGV[4]  most entries to return
-- Returns  entries {{id, {field, value, …}}, …}, or the errors FENCED, NOGROUP
--
-- The read is fenced, not only the confirm: a stale reader would move the group's
-- cursor and strand entries in a pending list that nobody is looking at.
local held = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if (held[1] or '') .. ':' .. (held[2] or '') ~= ARGV[1] then return redis.error_reply('FENCED not the owner') end
local reply = redis.pcall('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[4], 'STREAMS', KEYS[1], '>')
if not reply then return {} end
if reply.err then return reply end
return reply[1][2]
