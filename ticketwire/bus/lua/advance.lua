-- advance: let a partition give out no id again that the archive already knows.
--
-- KEYS[1]  ingest stream, which exists
-- KEYS[2]  lease
-- ARGV[1]  token
-- ARGV[2]  newest id the archive holds of this partition
-- Returns  1 when the stream's last id was behind, else 0; or the error FENCED
--
-- After Redis lost its tail, and a clock that stepped back, new ids could sort below delivered ones.
local held = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if (held[1] or '') .. ':' .. (held[2] or '') ~= ARGV[1] then return redis.error_reply('FENCED not the owner') end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
local last = '0-0'
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
local lm, ls = string.match(last, '^(%d+)-(%d+)$')
local nm, ns = string.match(ARGV[2], '^(%d+)-(%d+)$')
lm, nm = tonumber(lm), tonumber(nm)
if lm > nm or (lm == nm and tonumber(ls) >= tonumber(ns)) then return 0 end
redis.call('XSETID', KEYS[1], ARGV[2])
return 1
