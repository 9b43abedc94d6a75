-- release: give the lease of a partition back, so that another worker may take it at once.
--
-- KEYS[1]  lease
-- ARGV[1]  token   `<owner>:<epoch>`
-- Returns  1 when released, 0 when it was not ours any more
--
-- Epoch and watermark stay: the next epoch must be a new one.
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if (held[1] or '') .. ':' .. (held[2] or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'owner', '', 'expires', 0)
return 1
