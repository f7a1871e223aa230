-- Drop submissions that were claimed first a long time ago and never finished.
-- KEYS[1]  submissions
-- ARGV[1]  cursor
-- ARGV[2]  requests to look at, about
-- ARGV[3]  seconds for which they are kept
-- Returns the next cursor, '0' at the end, and how many requests were dropped.
local oldest = redis.call('TIME')[1] - ARGV[3]
local reply = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found, dropped = reply[2], 0
for i = 1, #found, 2 do
  local is_old = true
  for seconds in string.gmatch(found[i + 1], ':(%d%d%d%d%d%d%d%d%d%d)') do
    is_old = is_old and tonumber(seconds) < oldest
  end
  if is_old then
    redis.call('HDEL', KEYS[1], found[i])
    dropped = dropped + 1
  end
end
return {reply[1], dropped}
