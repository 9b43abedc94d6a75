-- presence: renew a node's lease in tickets, note who came, changed and left there, and tell the others.
--
-- KEYS     presence hash of each ticket: `@<node>` -> ms (Redis TIME) until which the node's people count;
--          `<user>:<node>` -> `<role>:<state>:<activity>`; `version`
-- ARGV[1]  node
-- ARGV[2]  ms its lease lasts
-- ARGV[3]  PUBLISH or SPUBLISH
-- ARGV[4…] for each ticket: ticket; channel of its events; 1 to be told who is there; number of changes; for each
--          user; role, empty for one who left this node; state; activity
-- Returns  for each ticket {1 if this node's lease was still there, version, {user, `<role>:<state>:<activity>`, …}}
--
-- A user counts once: online on any node is online, replying anywhere is replying. People of a node whose lease has
-- run out are taken out here by whichever node comes next. Each change of what others see is a new version and one
-- presence_diff, so a reader that misses one notices. A hash that was lost begins anew: its node then tells all again.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local node, lease = ARGV[1], tonumber(ARGV[2])

local function view(entries)
  local seen = {}
  for field, value in pairs(entries) do
    local user = string.match(field, '^(.-):')
    local role, state, activity = string.match(value, '^(.-):(.-):(.*)$')
    local old = seen[user]
    if old then
      if old.state == 'online' then state = 'online' end
      if old.activity == 'replying' or activity == '' then activity = old.activity end
      if old.role < role then role = old.role end
    end
    seen[user] = {role = role, state = state, activity = activity}
  end
  local merged = {}
  for user, s in pairs(seen) do merged[user] = s.role .. ':' .. s.state .. ':' .. s.activity end
  return merged
end

local function member(user, value)
  local role, state, activity = string.match(value, '^(.-):(.-):(.*)$')
  local text = '{"user_id":"' .. user .. '","role":"' .. role .. '","state":"' .. state .. '"'
  if activity ~= '' then text = text .. ',"activity":"' .. activity .. '"' end
  return text .. '}'
end

local replies, i = {}, 4
for k = 1, #KEYS do
  local key, ticket, channel, asked, n = KEYS[k], ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1', tonumber(ARGV[i + 3])
  i = i + 4
  local entries, leases, flat = {}, {}, redis.call('HGETALL', key)
  for f = 1, #flat, 2 do
    if string.find(flat[f], ':', 1, true) then
      entries[flat[f]] = flat[f + 1]
    elseif flat[f] ~= 'version' then
      leases[string.sub(flat[f], 2)] = tonumber(flat[f + 1])
    end
  end
  local known = leases[node] ~= nil
  local before = view(entries)
  leases[node] = now + lease
  redis.call('HSET', key, '@' .. node, leases[node])
  for field in pairs(entries) do
    local owner = string.match(field, ':([^:]*)$')
    if not leases[owner] or leases[owner] < now then
      redis.call('HDEL', key, field)
      entries[field] = nil
    end
  end
  for other, ends in pairs(leases) do
    if ends < now then redis.call('HDEL', key, '@' .. other) end
  end
  for _ = 1, n do
    local field = ARGV[i] .. ':' .. node
    if ARGV[i + 1] == '' then
      redis.call('HDEL', key, field)
      entries[field] = nil
    else
      entries[field] = ARGV[i + 1] .. ':' .. ARGV[i + 2] .. ':' .. ARGV[i + 3]
      redis.call('HSET', key, field, entries[field])
    end
    i = i + 4
  end
  local here, joined, left = view(entries), {}, {}
  for user, value in pairs(here) do
    if before[user] ~= value then joined[#joined + 1] = member(user, value) end
  end
  for user in pairs(before) do
    if not here[user] then left[#left + 1] = '"' .. user .. '"' end
  end
  local version
  if #joined + #left > 0 then
    version = redis.call('HINCRBY', key, 'version', 1)
    redis.call(ARGV[3], channel, '{"type":"presence_diff","ticket_id":"' .. ticket .. '","version":' .. version ..
      ',"members":[' .. table.concat(joined, ',') .. '],"left":[' .. table.concat(left, ',') .. ']}')
  else
    version = tonumber(redis.call('HGET', key, 'version') or '0')
  end
  -- Long enough that a version is not used twice while anybody might remember it.
  redis.call('PEXPIRE', key, math.max(10 * lease, 600000))
  local told = {}
  if asked then
    for user, value in pairs(here) do
      told[#told + 1] = user
      told[#told + 1] = value
    end
  end
  replies[k] = {known and 1 or 0, version, told}
end
return replies
