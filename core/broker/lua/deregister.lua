-- Deregister a worker. If it leaves something behind, it stays in the set of workers (or is added
-- again), where a reaper finds it without a heartbeat. The last worker of a namespace also removes
-- the notes about it, unless results or dead jobs are left, which are found by these notes.
-- KEYS[1]  workers of the namespace
-- KEYS[2]  heartbeat of the worker
-- KEYS[3]  its claims
-- KEYS[4]  crews
-- KEYS[5]  segments of the namespace
-- KEYS[6]  dead-letter list
-- KEYS[7…] its lists
-- ARGV[1]  worker
-- ARGV[2]  namespace
-- ARGV[3]  name of its crew
-- ARGV[4]  milliseconds after which no worker can commit a barred segment any more
-- Returns 1 if it was removed from the set of workers, 0 if it was kept.
redis.call('DEL', KEYS[2])
for i = 7, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('SADD', KEYS[1], ARGV[1])
    return 0
  end
end
redis.call('DEL', KEYS[3])
redis.call('SREM', KEYS[1], ARGV[1])
local results = redis.call('ZCOUNT', KEYS[5], 0, '+inf')
if results == 0 and redis.call('EXISTS', KEYS[1], KEYS[6]) == 0 then
  redis.call('PEXPIRE', KEYS[5], ARGV[4])
  redis.call('HDEL', KEYS[4], ARGV[3], ARGV[3] .. ' seen', ARGV[3] .. ' sighted')
  redis.call('HDEL', KEYS[4], ARGV[2] .. ' clock', ARGV[2] .. ' fault')
  if redis.call('HLEN', KEYS[4]) == 1 then
    redis.call('HDEL', KEYS[4], 'epoch')
  end
end
return 1
