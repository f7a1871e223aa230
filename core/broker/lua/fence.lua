-- Fence a dead worker: move its jobs to its ghost, so that it cannot commit them if it comes back.
-- KEYS[1]  heartbeat of the worker
-- KEYS[2]  workers of the namespace
-- KEYS[3]  its claims
-- KEYS[4]  claims of its ghost, which the worker does not know of
-- KEYS[5…] pairs: its processing list of a kind, and the ghost's list of the same kind
-- ARGV[1]  name of the ghost in the set of workers
-- Returns how many jobs were moved, or -1 if the worker is alive.
--
-- The first write frees memory, so a full server refuses nothing.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return -1
end
local moved = 0
redis.call('HDEL', KEYS[3], '')
for i = 5, #KEYS, 2 do
  for _ = 1, redis.call('LLEN', KEYS[i]) do
    redis.call('LMOVE', KEYS[i], KEYS[i + 1], 'LEFT', 'RIGHT')  -- atomic: no job is lost
    moved = moved + 1
  end
end
local claims = redis.call('HGETALL', KEYS[3])
redis.call('DEL', KEYS[3])
if moved > 0 then
  redis.call('SADD', KEYS[2], ARGV[1])
  for i = 1, #claims, 2 do
    redis.call('HSET', KEYS[4], claims[i], claims[i + 1])
  end
end
return moved
