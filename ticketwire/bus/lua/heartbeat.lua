-- heartbeat: say that this worker lives, and hear who else does.
--
-- KEYS[1]  workers   sorted set, score = expiry (ms, Redis TIME)
-- ARGV[1]  worker
-- ARGV[2]  ttl       ms
-- Returns  names of the live workers, this one included
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)
