-- Advance the clock of a namespace, by which results and dead jobs expire.
-- KEYS[1]  crews
-- ARGV[1]  field of the clock; its value is the clock's time and the server's time then, unix
--          seconds
-- ARGV[2]  longest step in seconds
-- ARGV[3]  name of the calling crew; nothing is written once its last worker is gone
-- Returns the clock's time.
--
-- The clock follows the server's, but one call advances it by one step at most. So a jump of the
-- server's clock (it was set, or the host slept) does not make a new result a day old, and results
-- do not age while no worker runs.
local now = tonumber(redis.call('TIME')[1])
local known = redis.call('HGET', KEYS[1], ARGV[1])
local time, at = string.match(known or '', '^(%d+) (%d+)$')
time = time and tonumber(time) + math.max(0, math.min(tonumber(ARGV[2]), now - tonumber(at))) or now
redis.call('HDEL', KEYS[1], ARGV[1])  -- needs no memory, so a full server refuses nothing after it
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', time, now))
end
return string.format('%.0f', time)
