-- Notes that a node is alive, or lists the nodes that are.
--
-- KEYS: 1 what the nodes say of themselves, each behind the time until which it counts as alive (hash).
-- ARGV to note: 1 the node; 2 what it says of itself; 3 milliseconds. ARGV to list: none.
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
if ARGV[1] then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + ARGV[3]) .. ' ' .. ARGV[2])
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
end
local alive, nodes = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #nodes, 2 do
  local through, about = string.match(nodes[i + 1], '^(%d+) (.*)$')
  if through and tonumber(through) > now then
    alive[#alive + 1] = nodes[i]
    alive[#alive + 1] = about
  else
    redis.call('HDEL', KEYS[1], nodes[i])
  end
end
if ARGV[1] then return #alive / 2 end
return alive
