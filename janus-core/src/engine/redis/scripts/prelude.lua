-- The beginning of `append` and `open`: where the topic is, and how records come into the log.
--
-- KEYS: 1 the state of the topic (hash), 2 its log (stream), 3 its channel.
-- ARGV: 1 a fresh epoch in case one is needed; 2 messages, 3 bytes and 4 milliseconds of the log; 5 milliseconds of the
-- state; 6 the command that publishes; 7 the node.
--
-- Fields of the state: e epoch; s last number; r history of the server in which that number was given; c bytes ever put
-- into the log; l at how many of these bytes the length of the log is looked at, 0 if there is no log; k where in the
-- bytes some entries begin; x in which millisecond the lives of both keys were last prolonged; n:NODE last submission
-- of a node, and its second.
--
-- An entry of the log has the number of its last message as its id. The channel carries the text of the entry.
local STATE, LOG, CHANNEL = KEYS[1], KEYS[2], KEYS[3]
local FRESH, PUBLISH, NODE = ARGV[1], ARGV[6], 'n:' .. ARGV[7]
local KEEP_MESSAGES, KEEP_BYTES = tonumber(ARGV[2]), tonumber(ARGV[3])
local KEEP_MS, STATE_MS = tonumber(ARGV[4]), tonumber(ARGV[5])
local GREATEST = 9007199254740991 -- the numbers above are not exact in Lua, nor in JSON
local MANY_FIELDS = 64            -- of a state, from where on nodes that were not heard of for long are forgotten
local LONG_AGO = 3600             -- seconds

-- The least milliseconds between two prolongations of the keys, and as many are added to their lives.
local PROLONG = math.min(5000, STATE_MS / 8)
if KEEP_MESSAGES > 0 then PROLONG = math.min(PROLONG, KEEP_MS / 8) end

-- tostring() of a number loses digits from 1e14 on.
local function int(n) return string.format('%.0f', n) end

-- The history that this server writes: another after each restart and each promotion.
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local now = redis.call('TIME')
local millis = now[1] * 1000 + math.floor(now[2] / 1000)
local state = redis.call('HMGET', STATE, 'e', 's', 'r', 'c', 'l', 'x', NODE)
local epoch, last, before = state[1], tonumber(state[2] or 0), state[3]
local bytes, look, prolonged = tonumber(state[4] or 0), tonumber(state[5] or 0), tonumber(state[6] or 0)
local seen = tonumber(string.match(state[7] or '0', '^%d+'))

local function prolong_state()
  redis.call('PEXPIRE', STATE, int(STATE_MS + PROLONG))
end

-- Each start of a process is another node; a topic that lives for years would remember all of them.
local function forget_nodes()
  if redis.call('HLEN', STATE) <= MANY_FIELDS then return end
  local fields = redis.call('HGETALL', STATE)
  for i = 1, #fields, 2 do
    local second = string.sub(fields[i], 1, 2) == 'n:' and string.match(fields[i + 1], ' (%d+)$')
    if second and now[1] - second > LONG_AGO then redis.call('HDEL', STATE, fields[i]) end
  end
end

-- Lets go of what is more than KEEP_BYTES, in whole nodes of the stream: to cut a node leaves tombstones, over which
-- every later look at the front stumbles. `k` notes at each look where the next entry begins, so that the payloads need
-- not be read to find the front.
local function trim_bytes(through)
  local notes = (redis.call('HGET', STATE, 'k') or '') .. int(through + 1) .. ' ' .. int(bytes) .. ';'
  local front, rest
  for id, begin, behind in string.gmatch(notes, '(%d+) (%d+);()') do
    if bytes - tonumber(begin) < KEEP_BYTES then break end
    front, rest = id, behind
  end
  if front then
    redis.call('XTRIM', LOG, 'MINID', '~', front)
    notes = string.sub(notes, rest)
  end
  look = bytes + math.max(1, math.floor(KEEP_BYTES / 8))
  redis.call('HSET', STATE, 'k', notes, 'l', int(look))
end

-- Puts a record into the log and on the channel. `submission` is the field of the node after this record.
local function keep(kind, count, tail, payload, through, submission)
  -- In one expression, so that the payload is copied once.
  local text = kind .. epoch .. ' ' .. int(through - count + 1) .. ' ' .. int(count)
    .. ' ' .. now[1] .. ' ' .. now[2] .. tail .. payload
  local had_log = look > 0
  if KEEP_MESSAGES > 0 then
    bytes = bytes + #text
    local front = int(math.max(0, through - KEEP_MESSAGES + 1))
    redis.call('XADD', LOG, 'MINID', '~', front, int(through) .. '-0', 't', text)
    if bytes >= look then trim_bytes(through) end
  elseif had_log then
    -- A log that goes on later must not have a hole.
    redis.call('DEL', LOG)
    redis.call('HDEL', STATE, 'k')
    redis.call('HSET', STATE, 'l', '0')
    look = 0
  end
  if before ~= history then
    redis.call('HSET', STATE, 'e', epoch, 'r', history)
    before = history
  end
  if submission then
    redis.call('HSET', STATE, 's', int(through), 'c', int(bytes), NODE, submission)
  else
    redis.call('HSET', STATE, 's', int(through), 'c', int(bytes))
  end
  if millis - prolonged >= PROLONG or had_log ~= (look > 0) then
    redis.call('PEXPIRE', LOG, int(KEEP_MS + PROLONG))
    prolong_state()
    forget_nodes()
    prolonged = millis
    redis.call('HSET', STATE, 'x', int(millis))
  end
  last = through
  redis.call(PUBLISH, CHANNEL, text)
end

-- A topic without a state starts afresh. The log can be older than the state, and its ids greater. The first write of a
-- script is the one that is refused when the memory is full, and DEL never is.
local function start()
  epoch, before = FRESH, history
  redis.call('HSET', STATE, 'e', epoch, 's', '0', 'r', history)
  redis.call('DEL', LOG)
end

-- Declares the numbers up to `through` lost. A topic at the greatest number stays there: no message can come after it.
local function lose(through)
  through = math.min(through, GREATEST)
  if through <= last then return end
  local tail = ' ' .. epoch .. ' ' .. int(last) .. '\n'
  if before ~= history then epoch = FRESH end
  keep('1 loss ', through - last, tail, '', through)
end

if epoch and before ~= history then lose(last + 1) end
