-- Says where a topic is, and notes how many subscribers a node has.
--
-- KEYS: 1 the state of the topic (hash), 2 the subscribers by node (hash).
-- ARGV: 1 the node; 2 its subscribers; 3 milliseconds for which the number counts; 4 milliseconds of the state, or 0.
-- Returns the epoch, or - if the topic does not exist; the last number; the subscribers on all nodes.
local function int(n) return string.format('%.0f', n) end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. int(now + ARGV[3]))
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
end
local sum, counts = 0, redis.call('HGETALL', KEYS[2])
for i = 1, #counts, 2 do
  local count, through = string.match(counts[i + 1], '^(%d+) (%d+)$')
  if through and tonumber(through) > now then
    sum = sum + count
  else
    redis.call('HDEL', KEYS[2], counts[i])
  end
end
local state = redis.call('HMGET', KEYS[1], 'e', 's')
if ARGV[4] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return (state[1] or '-') .. ' ' .. (state[2] or '0') .. ' ' .. int(sum)
