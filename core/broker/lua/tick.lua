-- Advance the clock of a namespace by which results and dead jobs expire.
-- KEYS[1]  crews
-- ARGV[1]  field of the clock: its time in unix seconds, and the server's time when it was that
-- ARGV[2]  most seconds that one step may have
-- ARGV[3]  name of the crew that asks: once its last worker is gone, nothing is noted
-- Returns the time.
--
-- It goes like the server's clock, but a leap (a clock that was set, a host that slept) is no more
-- than a step: what was committed a moment ago must not be a day old. While nobody steps, results
-- do not age.
local now = tonumber(redis.call('TIME')[1])
local known = redis.call('HGET', KEYS[1], ARGV[1])
local time, at = string.match(known or '', '^(%d+) (%d+)$')
time = time and tonumber(time) + math.max(0, math.min(tonumber(ARGV[2]), now - tonumber(at))) or now
redis.call('HDEL', KEYS[1], ARGV[1])  -- needs no memory: a full server refuses nothing after it
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', time, now))
end
return string.format('%.0f', time)
