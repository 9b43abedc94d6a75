-- accept: put a group of messages on their ingest streams, once.
--
-- KEYS[1]   batch      string that remembers this call's answer, so that a retry cannot double
-- KEYS[2…]  streams    the ingest streams named below; on Redis Cluster exactly one
-- ARGV[1]   how long the batch key lives, ms (twice the retry window)
-- ARGV[2]   how long a caller's idempotency key lives, ms
-- ARGV[3…]  for each message: index of its stream in KEYS, idempotency key or '', digest of the
--           message or '', number of strings that follow, field, value, field, value …
-- Returns   for each message, in order: its id; or `!` and the id another message has under the same
--           idempotency key; or `-` and why Redis refused this one. Or an error that passes by itself
--           (OOM, MISCONF, READONLY, NOREPLICAS), after which nothing was written
--
-- Every call that answers writes, a repeat too: WAIT and WAITAOF wait for the connection's own last write, so
-- that a repeat on a new connection, without one, would be told at once that all is safe.
-- The idempotency keys are not declared: they carry the stream's hash tag, so they lie in its slot.
local known = redis.call('GET', KEYS[1])
if known then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  return cjson.decode(known)
end

local answers = {}
local written = false
local i = 3
while i <= #ARGV do
  local stream, key, digest, n = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local earlier = key ~= '' and redis.call('GET', key)
  local answer
  if earlier then
    local space = string.find(earlier, ' ', 1, true)
    local id = string.sub(earlier, 1, space - 1)
    answer = string.sub(earlier, space + 1) == digest and id or ('!' .. id)
  else
    local added = redis.pcall('XADD', stream, '*', unpack(ARGV, i + 4, i + 3 + n))
    if type(added) == 'table' then
      -- These hit the whole server, so the group as a whole is tried again. Anything else is this
      -- stream's own trouble (another type, no ids left) and must not take the others along.
      if not written then
        for _, passing in ipairs({'OOM', 'MISCONF', 'READONLY', 'NOREPLICAS'}) do
          if string.find(added.err, passing, 1, true) then return added end
        end
      end
      answer = '-' .. added.err
    else
      written = true
      answer = added
      if key ~= '' then redis.call('SET', key, added .. ' ' .. digest, 'PX', ARGV[2]) end
    end
  end
  answers[#answers + 1] = answer
  i = i + 4 + n
end
redis.call('SET', KEYS[1], cjson.encode(answers), 'PX', ARGV[1])
return answers
