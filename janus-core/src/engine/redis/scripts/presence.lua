-- Notes what a node says of its members of a topic, and returns what the other nodes say.
--
-- KEYS: 1 the words of each node, behind the time until which they count and their version (hash).
-- ARGV: 1 the node; 2 the version that the node knows; 3 milliseconds for which the words count, or 0 to ask alone; 4 the
-- words, or nothing if the node has no members any more; 5 the most bytes of words to return.
-- Returns the version; 1 if the words are other than before, or else 0; 1 if all new words are returned, or else 0; and of
-- each other node the id, the milliseconds for which its words count, and the words if they are newer than the known version
-- and not newer than the returned version, or else nothing.
local function int(n) return string.format('%.0f', n) end
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local version, changed, before, number = 0, 0, nil, nil
local nodes, new, fields = {}, {}, redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local through, written, words = string.match(fields[i + 1], '^(%d+) (%d+) (.*)$')
  if not through or tonumber(through) <= now then
    redis.call('HDEL', KEYS[1], fields[i])
  else
    version = math.max(version, tonumber(written))
    if fields[i] == ARGV[1] then
      before, number = words, tonumber(written)
    else
      nodes[#nodes + 1] = fields[i]
      nodes[#nodes + 1] = int(through - now)
      nodes[#nodes + 1] = ''
      if tonumber(written) > tonumber(ARGV[2]) then
        new[#new + 1] = { number = tonumber(written), place = #nodes, words = words }
      end
    end
  end
end
if ARGV[3] ~= '0' and ARGV[4] == '' then
  changed = redis.call('HDEL', KEYS[1], ARGV[1])
elseif ARGV[3] ~= '0' then
  if before ~= ARGV[4] then
    -- Above each version from before a loss of the data.
    changed, number = 1, math.max(version + 1, micros)
    version = number
  end
  redis.call('HSET', KEYS[1], ARGV[1], int(now + ARGV[3]) .. ' ' .. int(number) .. ' ' .. ARGV[4])
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
end
local whole, bytes = 1, 0
table.sort(new, function(a, b) return a.number < b.number end)
for i, of in ipairs(new) do
  bytes = bytes + #of.words
  if i > 1 and bytes > tonumber(ARGV[5]) then
    whole, version = 0, new[i - 1].number
    break
  end
  nodes[of.place] = of.words
end
local answer = { int(version), int(changed), int(whole) }
for i = 1, #nodes do answer[i + 3] = nodes[i] end
return answer
