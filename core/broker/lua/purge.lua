-- Drop submissions that were first claimed long ago and never finished.
-- KEYS submissions
-- ARGV cursor
-- ARGV count: approximate number of requests to examine
-- ARGV kept_s: seconds for which submissions are kept
-- Returns the next cursor, '0' at the end.
local oldest = redis.call('TIME')[1] - kept_s
local reply = redis.call('HSCAN', submissions, cursor, 'COUNT', count)
local requests = reply[2]
for i = 1, #requests, 2 do
  local is_old = true
  for seconds in string.gmatch(requests[i + 1], ':(%d%d%d%d%d%d%d%d%d%d)') do
    is_old = is_old and tonumber(seconds) < oldest
  end
  if is_old then
    redis.call('HDEL', submissions, requests[i])
  end
end
return reply[1]
