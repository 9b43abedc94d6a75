-- renew: keep the lease of a partition.
--
-- KEYS[1]  lease
-- ARGV[1]  token   `<owner>:<epoch>`
-- ARGV[2]  ttl     ms
-- Returns  1, or the error FENCED when another has taken it
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if (held[1] or '') .. ':' .. (held[2] or '') ~= ARGV[1] then return redis.error_reply('FENCED not the owner') end
local t = redis.call('TIME')
redis.call('HSET', KEYS[1], 'expires', t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2])
return 1
