-- confirm: settle a batch of one partition, all or nothing, and read the next one.
--
-- KEYS[1]  ingest stream
-- KEYS[2]  lease
-- KEYS[3]  dead-letter stream
-- ARGV[1]  token
-- ARGV[2]  group
-- ARGV[3]  consumer
-- ARGV[4]  what stands before the ticket in a log's key
-- ARGV[5]  what stands before the ticket in a channel's name
-- ARGV[6]  PUBLISH or SPUBLISH, for the events channel
-- ARGV[7]  entries a log keeps, about
-- ARGV[8]  ms a log lives after its last entry
-- ARGV[9]  most entries to read next, 0 for none
-- ARGV[10] 1 when all subscribers are on this server: what nobody hears need not be published
-- ARGV[11] newest id that the caller knows to be settled
-- ARGV[12…] for each entry, in id order: id; `log`, `change`, `dead` or `none`; ticket; event without its first
--          brace; number of strings that follow; field, value, field, value …
--          `log` shows it; `change` shows it and takes the entry named by its first field's value out of the log, and
--          what lies before that too if its second field's value is `message_updated`;
--          `dead` buries it, `none` only settles it (held, rejected: the archive has it)
-- Returns  {{{id, new id}, …}, next entries}; or the errors FENCED, REGRESSED, NOGROUP, or `REFUSED <id> <why>` when
--          a log cannot take an entry (a key of another type): what stood before it is shown, nothing is settled,
--          and the same call may be repeated with that entry as `dead`
--
-- A log entry has the ingest entry's own id, so Redis itself refuses a repeat and a step back. Ids at or below
-- `done` were settled by an earlier call whose reply was lost, unless they still lie on the ingest stream. An id
-- refused though it is neither settled nor in the log is appended under a new id and reported, never dropped.
-- The logs' keys are computed from ARGV: on Redis Cluster they carry the partition's hash tag.
local held = redis.call('HMGET', KEYS[2], 'owner', 'epoch', 'done')
if (held[1] or '') .. ':' .. (held[2] or '') ~= ARGV[1] then return redis.error_reply('FENCED not the owner') end
local FIRST = 12
local logs, channels, publish, keep, life = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local function after(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  am, bm = tonumber(am), tonumber(bm)
  return am > bm or (am == bm and tonumber(as) > tonumber(bs))
end

-- A promoted replica may know this lease and yet not what was settled under it lately. To go on would move the
-- watermark past the lost messages, and nobody would miss them.
local done = held[3] or '0-0'
if after(ARGV[11], done) then
  return redis.error_reply('REGRESSED to ' .. done .. ', ' .. ARGV[11] .. ' was settled')
end

-- Most tickets have no reader at the moment, and a PUBLISH costs as much as an XADD: one question for all of them.
-- On Cluster the readers may be on another node, so there everybody is taken to listen.
local heard = {}
local function listened(channel) return true end
if ARGV[10] == '1' and redis.call('PUBSUB', 'NUMPAT') == 0 then
  local asked, seen, k = {'NUMSUB'}, {}, FIRST
  while k <= #ARGV do
    local ticket = ARGV[k + 2]
    if ticket ~= '' and not seen[ticket] then
      seen[ticket] = true
      asked[#asked + 1] = channels .. ticket
      asked[#asked + 1] = channels .. ticket .. ':events'
    end
    k = k + 5 + tonumber(ARGV[k + 4])
  end
  local counts = #asked > 1 and redis.call('PUBSUB', unpack(asked)) or {}
  for c = 1, #counts, 2 do heard[counts[c]] = counts[c + 1] > 0 end
  listened = function(channel) return heard[channel] end
end

local fresh = false -- ids ascend: once one is above the watermark, so are all after it
local ids, renamed, top = {}, {}, {}
local i = FIRST
while i <= #ARGV do
  local id, kind, ticket, event, n = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  fresh = fresh or after(id, done)
  if fresh or redis.call('XRANGE', KEYS[1], id, id)[1] then
    if kind == 'log' or kind == 'change' then
      local log = logs .. ticket
      local prev = top[ticket]
      if not prev then
        local last = redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 1)
        if last.err then return redis.error_reply('REFUSED ' .. id .. ' ' .. last.err) end
        prev = last[1] and last[1][1] or '0-0'
      end
      local added = redis.pcall('XADD', log, id, unpack(ARGV, i + 5, i + 4 + n))
      if type(added) == 'table' then
        if not string.find(added.err, 'equal or smaller', 1, true) then return added end
        if redis.call('XRANGE', log, id, id)[1] then
          added = nil -- shown already, by a call that stopped at REFUSED or from the archive
        else
          added = redis.call('XADD', log, '*', unpack(ARGV, i + 5, i + 4 + n))
          renamed[#renamed + 1] = {id, added}
          -- The event states the refused id, so nobody may show it: readers learn the entry from the log.
          redis.call(publish, channels .. ticket .. ':events', '{"type":"changed"}')
        end
      elseif listened(channels .. ticket .. ':events') then
        redis.call(publish, channels .. ticket .. ':events',
          '{"prev_id":"' .. prev .. '",' .. event)
      end
      -- Its text must be gone from Redis. A deleted message is missed by nobody; an updated one by who has not seen
      -- it yet, and finds it in the archive: so the log then begins after it.
      if kind == 'change' and ARGV[i + 8] == 'message_updated' then
        redis.call('XDEL', log, ARGV[i + 6])
        redis.call('XTRIM', log, 'MINID', ARGV[i + 6])
      elseif kind == 'change' then
        redis.call('XDEL', log, ARGV[i + 6])
      end
      if added then
        top[ticket] = added
        if listened(channels .. ticket) then redis.call('PUBLISH', channels .. ticket, added) end
      end
    elseif kind == 'dead' then
      -- A letter has its entry's id, so it is found by it; a stream that ran ahead takes it at its end.
      local added = redis.pcall('XADD', KEYS[3], id, unpack(ARGV, i + 5, i + 4 + n))
      if type(added) == 'table' then
        if not string.find(added.err, 'equal or smaller', 1, true) then return added end
        if not redis.call('XRANGE', KEYS[3], id, id)[1] then
          redis.call('XADD', KEYS[3], '*', unpack(ARGV, i + 5, i + 4 + n))
        end
      end
    end
  end
  ids[#ids + 1] = id
  i = i + 5 + n
end
for ticket in pairs(top) do
  redis.call('XTRIM', logs .. ticket, 'MAXLEN', '~', keep)
  redis.call('PEXPIRE', logs .. ticket, life)
end
if #ids > 0 then
  redis.call('XACK', KEYS[1], ARGV[2], unpack(ids))
  -- Counted once each, however often this call is repeated: rates and `ticketwire verify` are made of it.
  local gone = redis.call('XDEL', KEYS[1], unpack(ids))
  if gone > 0 then redis.call('HINCRBY', KEYS[2], 'settled', gone) end
  if fresh then redis.call('HSET', KEYS[2], 'done', ids[#ids]) end
end

if ARGV[9] == '0' then return {renamed, {}} end
local reply = redis.pcall('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[9], 'STREAMS', KEYS[1], '>')
-- The batch is settled either way; a lost group shows itself at the next read.
if not reply or reply.err then return {renamed, {}} end
return {renamed, reply[1][2]}
