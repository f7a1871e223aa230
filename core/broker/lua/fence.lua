-- Fence a dead worker: move its jobs to its ghost, so that it cannot commit them if it comes back.
-- KEYS heartbeat, workers, claims
-- KEYS ghost_claims: claims of its ghost, which the worker does not know of
-- KEYS lists*: pairs of its processing list of a kind and the ghost's list of the same kind
-- ARGV ghost: name of the ghost among the workers
-- Returns how many jobs were moved, or -1 if the worker is alive.
--
-- The first write frees memory, so a full server refuses nothing.
if redis.call('EXISTS', heartbeat) == 1 then
  return -1
end
local moved = 0
redis.call('HDEL', claims, '')
for i = 1, #lists, 2 do
  for _ = 1, redis.call('LLEN', lists[i]) do
    redis.call('LMOVE', lists[i], lists[i + 1], 'LEFT', 'RIGHT')  -- atomic: no job is lost
    moved = moved + 1
  end
end
local claimed = redis.call('HGETALL', claims)
redis.call('DEL', claims)
if moved > 0 then
  redis.call('SADD', workers, ghost)
  for i = 1, #claimed, 2 do
    redis.call('HSET', ghost_claims, claimed[i], claimed[i + 1])
  end
end
return moved
