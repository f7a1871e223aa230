-- Drop a dead job and put its inputs on a cleanup list. A reaper unlinks them if the process that
-- discards the job dies before it has done so.
-- KEYS[2]  queue that the job came from
-- KEYS[3]  cleanup list of the process that discards the job
-- KEYS[4]  set of workers of the shared memory that the inputs are in
-- ARGV[4]  payload
-- ARGV[5]  name of that process in the set of workers
-- Returns -1 if another entry is at the index, 1 if the inputs are to be unlinked, or 2 if they are
-- still needed because the same message is in the queue again.
--
-- All or nothing: a full server checks a script's first write only, and never refuses LREM.
-- Commands that fail on a key of the wrong type come before it.
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
