-- stranded: find entries that were read but are in nobody's hand. Changes nothing.
--
-- KEYS[1]  ingest stream
-- ARGV[1]  group
-- ARGV[2]  exclusive start: the last id of the page before, or '-'
-- ARGV[3]  most entries to look at
-- Returns  {last id looked at or '' at the end, {id, …}}
--
-- An entry at or below the group's cursor was handed out; until it is settled it stands in the pending list, and
-- when it is settled it leaves the stream in the same step. Neither: no `>` will ever read it again. One script, so that
-- nothing can be settled between the looks.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return {'', {}} end -- no stream
local cursor
for _, group in ipairs(groups) do
  local is, last
  for i = 1, #group, 2 do
    if group[i] == 'name' then is = group[i + 1] == ARGV[1] end
    if group[i] == 'last-delivered-id' then last = group[i + 1] end
  end
  if is then cursor = last end
end
if not cursor then return {'', {}} end -- no group yet: all are new
local from = ARGV[2]
if from ~= '-' then from = '(' .. from end
local entries = redis.call('XRANGE', KEYS[1], from, cursor, 'COUNT', ARGV[3])
local out = {}
for _, entry in ipairs(entries) do
  if not redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)[1] then out[#out + 1] = entry[1] end
end
return {#entries == tonumber(ARGV[3]) and entries[#entries][1] or '', out}
