-- Numbers the messages of a submission, keeps them, and hands them on.
--
-- KEYS: 4 the result of the publisher's key against repetitions, if there is one.
-- ARGV: 8 whether a topic that does not exist is made; 9 the number of the submission; 10 the number of messages; 11
-- the messages; 12 milliseconds of the result.
local SUBMISSION, COUNT = tonumber(ARGV[9]), tonumber(ARGV[10])
if KEYS[4] then
  local result = redis.call('GET', KEYS[4])
  if result then return 'again ' .. result end
end
if not epoch then
  if ARGV[8] ~= '1' then return 'absent' end
  start()
end
if seen >= SUBMISSION then return 'known' end
if last + COUNT > GREATEST or before ~= history then
  local after = ' more messages after number ' .. int(last) .. ' go beyond ' .. int(GREATEST)
  return redis.error_reply('NUMBERS ' .. ARGV[10] .. after)
end
local first = epoch .. ' ' .. int(last + 1)
-- Messages of bytes are a record of form 2, and their text begins with that number on a line of its own.
local form = string.sub(ARGV[11], 1, 2) == '2\n' and '2' or '1'
keep(form .. ' msg ', COUNT, ' ' .. ARGV[7] .. ' ' .. ARGV[9] .. '\n', ARGV[11], last + COUNT, ARGV[9] .. ' ' .. now[1])
if KEYS[4] then redis.call('SET', KEYS[4], first, 'PX', ARGV[12]) end
return 'new ' .. first
