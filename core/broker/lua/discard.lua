-- Drop a dead job and put its inputs on a cleanup list. A reaper unlinks them if the process that
-- discards the job dies before it has done so.
-- USES entries
-- KEYS queue: the job's
-- KEYS cleanup: that of the process that discards the job
-- KEYS workers: those of the shared memory that the inputs are in
-- ARGV payload
-- ARGV worker: name of the process among the workers
-- Returns -1 if another entry is at the index, 1 if the inputs are to be unlinked, or 2 if they are
-- still needed because the same message is in the queue again.
--
-- All or nothing: a full server checks a script's first write only, and never refuses LREM.
-- Commands that fail on a key of the wrong type come before it.
local entry = find_entry()
if not entry then
  return -1
end
local queued = redis.call('LPOS', queue, payload)
redis.call('LLEN', cleanup)
redis.call('SCARD', workers)
remove(entry)
if queued then
  return 2
end
redis.call('RPUSH', cleanup, payload)
redis.call('SADD', workers, worker)
return 1
