-- acquire: take the lease of a partition if nobody holds it.
--
-- KEYS[1]  lease    hash with `owner`, `epoch`, `expires` (ms, Redis TIME), `done`
-- ARGV[1]  owner    name of the worker process, never used by another process
-- ARGV[2]  ttl      ms
-- Returns  {epoch, done} when taken, {0, ms until it can be taken} when another holds it
--
-- Redis TIME judges, never a pod's clock. Each taking has a new epoch: owner and epoch together
-- are the fencing token, so a token stays unique even when a failover sets the epoch back.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'owner', 'expires', 'done')
local expires = tonumber(held[2] or 0)
if held[1] and held[1] ~= '' and held[1] ~= ARGV[1] and expires > now then
  return {0, tostring(expires - now)}
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'expires', now + ARGV[2])
return {redis.call('HINCRBY', KEYS[1], 'epoch', 1), held[3] or '0-0'}
