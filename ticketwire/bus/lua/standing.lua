-- standing: how far a user is in a ticket.
--
-- KEYS[1]  cursors  hash of the ticket: `<user>:<device>` and `<user>` -> acknowledged position
-- KEYS[2]  reads    hash of the ticket: `<user>` -> position read up to
-- KEYS[3]  log      of the ticket
-- ARGV[1]  user
-- ARGV[2]  device, may be empty
-- ARGV[3]  most unread messages counted
-- ARGV[4]  most other readers told; none at all where there are more
-- Returns  {device's position or '', position read or '', unread or -1 when the log does not reach back to it,
--          {user, position, …} of the readers}
local cursor = ARGV[2] ~= '' and redis.call('HGET', KEYS[1], ARGV[1] .. ':' .. ARGV[2]) or ''
local read = redis.call('HGET', KEYS[2], ARGV[1]) or ''
local unread = 0
if read ~= '' then
  local entries = redis.call('XRANGE', KEYS[3], read, '+', 'COUNT', ARGV[3] + 1)
  if entries[1] and entries[1][1] == read then
    for i = 2, #entries do
      local sender, change
      for f = 1, #entries[i][2], 2 do
        if entries[i][2][f] == 'sender_id' then sender = entries[i][2][f + 1] end
        if entries[i][2][f] == 'type' then change = true end
      end
      if sender ~= ARGV[1] and not change then unread = unread + 1 end
    end
  else
    unread = -1
  end
end
local readers = {}
if redis.call('HLEN', KEYS[2]) <= tonumber(ARGV[4]) then readers = redis.call('HGETALL', KEYS[2]) end
return {cursor or '', read, unread, readers}
