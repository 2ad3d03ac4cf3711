-- Says where a topic is, and makes it if there is none; numbers that were handed out are never handed out again.
--
-- ARGV: 8 the epoch and 9 the number of the last position that the node has handed out, or empty.
-- Returns the epoch and the last number. The node reads the records up to there over another connection.
local KNOWN, FLOOR = ARGV[8], tonumber(ARGV[9])
if not epoch then
  start()
  if KNOWN ~= '' then lose(FLOOR + 1) end
elseif KNOWN ~= '' and (FLOOR > last or (FLOOR == last and KNOWN ~= epoch)) then
  -- The node has handed out numbers that are not here, or this number under an epoch that did not come so far.
  lose(FLOOR + 1)
end
prolong_state()
return { epoch, int(last) }
