-- Drop a dead job and leave its inputs to be unlinked, as those of a worker that died meanwhile:
-- so they are found by a reaper even if whoever discards the job dies before it has unlinked them.
-- KEYS[1]  dead list
-- KEYS[2]  queue that the job came from
-- KEYS[3]  cleanup list of whoever discards the job
-- KEYS[4]  set of workers of the shared memory that the inputs are in
-- ARGV[1]  entry of the dead list
-- ARGV[2]  payload
-- ARGV[3]  the name in the set under which the cleanup list is found
-- Returns 0 if the entry is no longer on the list, 1 if its inputs are to be unlinked, or 2 if they
-- are still needed: the same message is in the queue once more.
--
-- The first write is one that a full server refuses, so that nothing or everything is changed.
if not redis.call('LPOS', KEYS[1], ARGV[1]) then
  return 0
end
if redis.call('LPOS', KEYS[2], ARGV[2]) then
  redis.call('LREM', KEYS[1], 1, ARGV[1])
  return 2
end
redis.call('RPUSH', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[4], ARGV[3])
redis.call('LREM', KEYS[1], 1, ARGV[1])
return 1
