-- Drop submissions that were first claimed long ago and never finished.
-- KEYS[1]  submissions
-- ARGV[1]  cursor
-- ARGV[2]  approximate number of requests to examine
-- ARGV[3]  seconds for which submissions are kept
-- Returns the next cursor, '0' at the end.
local oldest = redis.call('TIME')[1] - ARGV[3]
local reply = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local requests = reply[2]
for i = 1, #requests, 2 do
  local is_old = true
  for seconds in string.gmatch(requests[i + 1], ':(%d%d%d%d%d%d%d%d%d%d)') do
    is_old = is_old and tonumber(seconds) < oldest
  end
  if is_old then
    redis.call('HDEL', KEYS[1], requests[i])
  end
end
return reply[1]
