-- Deregister a worker. If it leaves something behind, it stays in the set of workers (or is added
-- again), where a reaper finds it without a heartbeat. The last worker of a namespace also removes
-- the notes about it, unless results or dead jobs are left, which are found by these notes.
-- KEYS workers, heartbeat, claims, crews, segments, dead
-- KEYS lists*: the worker's lists
-- ARGV worker, namespace, crew
-- ARGV barred_ms: milliseconds after which no worker can commit a barred segment any more
-- Returns 1 if it was removed from the set of workers, 0 if it was kept.
redis.call('DEL', heartbeat)
for _, list in ipairs(lists) do
  if redis.call('EXISTS', list) == 1 then
    redis.call('SADD', workers, worker)
    return 0
  end
end
redis.call('DEL', claims)
redis.call('SREM', workers, worker)
local results = redis.call('ZCOUNT', segments, 0, '+inf')
if results == 0 and redis.call('EXISTS', workers, dead) == 0 then
  redis.call('PEXPIRE', segments, barred_ms)
  redis.call('HDEL', crews, crew, crew .. ' seen', crew .. ' sighted')
  redis.call('HDEL', crews, namespace .. ' clock', namespace .. ' fault')
  if redis.call('HLEN', crews) == 1 then
    redis.call('HDEL', crews, 'epoch')
  end
end
return 1
