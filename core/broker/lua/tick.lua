-- Advance the clock of a namespace, by which results and dead jobs expire.
-- KEYS crews
-- ARGV clock: field of the clock; its value is the clock's time and the server's time then, unix
--   seconds
-- ARGV longest_s: longest step in seconds
-- ARGV crew: name of the calling crew; nothing is written once its last worker is gone
-- Returns the clock's time.
--
-- The clock follows the server's, but one call advances it by one step at most. So a jump of the
-- server's clock (it was set, or the host slept) does not make a new result a day old, and results
-- do not age while no worker runs.
local now = tonumber(redis.call('TIME')[1])
local known = redis.call('HGET', crews, clock)
local time, at = string.match(known or '', '^(%d+) (%d+)$')
time = time and tonumber(time) + math.max(0, math.min(tonumber(longest_s), now - tonumber(at))) or now
redis.call('HDEL', crews, clock)  -- needs no memory, so a full server refuses nothing after it
if redis.call('HEXISTS', crews, crew) == 1 then
  redis.call('HSET', crews, clock, string.format('%.0f %.0f', time, now))
end
return string.format('%.0f', time)
