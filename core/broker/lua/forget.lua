-- Remove a dead worker from the set of workers once nothing is left of it.
-- KEYS[1]  set of workers of the namespace
-- KEYS[2]  heartbeat of the worker
-- KEYS[3]  its claims
-- KEYS[4…] its lists
-- ARGV[1]  the worker
-- Returns 1 if it was removed.
for i = 2, #KEYS do
  if i ~= 3 and redis.call('EXISTS', KEYS[i]) == 1 then
    return 0
  end
end
redis.call('DEL', KEYS[3])
return redis.call('SREM', KEYS[1], ARGV[1])
