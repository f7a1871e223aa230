-- Drop a dead job and leave its inputs to be unlinked, as those of a worker that died meanwhile:
-- so a reaper finds them even if the process that discards the job dies before it has unlinked them.
-- KEYS[2]  queue that the job came from
-- KEYS[3]  cleanup list of the process that discards the job
-- KEYS[4]  set of workers of the shared memory that the inputs are in
-- ARGV[4]  payload
-- ARGV[5]  the name in the set under which the cleanup list is found
-- Returns -1 if another entry is at the index, 1 if the inputs are to be unlinked, or 2 if they are
-- still needed: the same message is in the queue once more.
--
-- A full server checks the first write of a script only, and never refuses LREM. What may fail for
-- another reason (a key of another type) is asked for before it, so that nothing or everything is
-- changed.
local entry = find_entry()
if not entry then
  return -1
end
local queued = redis.call('LPOS', KEYS[2], ARGV[4])
redis.call('LLEN', KEYS[3])
redis.call('SCARD', KEYS[4])
remove(entry)
if queued then
  return 2
end
redis.call('RPUSH', KEYS[3], ARGV[4])
redis.call('SADD', KEYS[4], ARGV[5])
return 1
