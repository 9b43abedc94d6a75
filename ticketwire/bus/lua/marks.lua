-- marks: move acknowledged and read positions forward, and tell the ticket's readers.
--
-- KEYS     for each ticket two: cursors, a hash `<user>:<device>` and `<user>` -> acknowledged position;
--          reads, a hash `<user>` -> position read up to
-- ARGV[1]  ms both live after their last change
-- ARGV[2]  PUBLISH or SPUBLISH
-- ARGV[3…] for each ticket: ticket; channel of its events, empty for no receipts; number of marks; for each mark
--          user; device or ''; acknowledged position or ''; position read or ''; 1 if the device's position may
--          also go back
-- Returns  how many receipts were published
--
-- A position goes back only where its client was told `reset`: two nodes write in any order after a reconnect.
local function after(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  -- Compared as text: halves go up to 2^64 - 1, and Lua's numbers are exact to 2^53.
  if #am ~= #bm then return #am > #bm end
  if am ~= bm then return am > bm end
  if #as ~= #bs then return #as > #bs end
  return as > bs
end
local function advance(key, field, position, force)
  local old = redis.call('HGET', key, field)
  if old and not force and not after(position, old) then return false end
  redis.call('HSET', key, field, position)
  return old ~= position
end
local receipts, k, i = 0, 1, 3
while i <= #ARGV do
  local ticket, channel, n = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  i = i + 3
  for _ = 1, n do
    local user, device, acked, read, force = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4] == '1'
    local news = ''
    if acked ~= '' then
      if device ~= '' then advance(KEYS[k], user .. ':' .. device, acked, force) end
      if advance(KEYS[k], user, acked, false) then news = news .. ',"delivered":"' .. acked .. '"' end
      redis.call('PEXPIRE', KEYS[k], ARGV[1])
    end
    if read ~= '' then
      if advance(KEYS[k + 1], user, read, false) then news = news .. ',"read":"' .. read .. '"' end
      redis.call('PEXPIRE', KEYS[k + 1], ARGV[1])
    end
    if news ~= '' and channel ~= '' then
      redis.call(ARGV[2], channel, '{"type":"receipt","ticket_id":"' .. ticket .. '","user_id":"' .. user .. '"' .. news .. '}')
      receipts = receipts + 1
    end
    i = i + 5
  end
  k = k + 2
end
return receipts
