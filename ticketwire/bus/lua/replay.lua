-- replay: send dead letters of one partition again, each of them once, in the order given.
--
-- KEYS[1]  dead-letter stream
-- KEYS[2]  ingest stream
-- KEYS[3]  replayed   hash: letter id -> `<new id> <ms, Redis TIME> <note>`, until PostgreSQL has it
-- ARGV[1]  note       who sends them and why, as JSON; stored as it is
-- ARGV[2…] for each letter: its id; SHA-1 of its field `fields`; number of strings that follow;
--          field, value, field, value … of the entry to be sent
-- Returns  for each letter: what the hash holds for it, or '' when the letter is gone and unknown to the hash
--
-- Whoever finds the letter sends it: a second call, by whomever, finds it gone. Sending, removing and noting are one
-- step, so a caller that dies afterwards, or never hears the reply, leaves the new id behind in the hash.
-- The digest makes sure that the caller sends what lies there now.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local out = {}
local i = 2
while i <= #ARGV do
  local id, digest, n = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local letter = redis.call('XRANGE', KEYS[1], id, id)[1]
  local same = false
  if letter then
    for f = 1, #letter[2], 2 do
      if letter[2][f] == 'fields' then same = redis.sha1hex(letter[2][f + 1]) == digest end
    end
  end
  if same then
    local added = redis.call('XADD', KEYS[2], '*', unpack(ARGV, i + 3, i + 2 + n))
    redis.call('XDEL', KEYS[1], id)
    local note = added .. ' ' .. now .. ' ' .. ARGV[1]
    redis.call('HSET', KEYS[3], id, note)
    out[#out + 1] = note
  else
    out[#out + 1] = redis.call('HGET', KEYS[3], id) or ''
  end
  i = i + 3 + n
end
return out
