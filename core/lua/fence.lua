-- Take a dead worker's jobs away from it, so that it cannot commit them should it come back.
-- KEYS[1]  heartbeat of the worker
-- KEYS[2]  its processing list of one kind
-- KEYS[3]  the list of the same kind where what it lost waits for its segments to be removed
-- KEYS[4]  set of workers of the namespace
-- ARGV[1]  the name in the set under which the lost jobs are found again
-- Returns how many jobs were moved, or -1 if the worker is alive.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return -1
end
local moved = 0
while true do
  local payload = redis.call('LPOP', KEYS[2])
  if not payload then
    break
  end
  redis.call('RPUSH', KEYS[3], payload)
  moved = moved + 1
end
if moved > 0 then
  redis.call('SADD', KEYS[4], ARGV[1])
end
return moved
