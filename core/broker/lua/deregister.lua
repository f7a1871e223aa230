-- Take the announcement of a worker back. One that leaves something behind is kept in the set of
-- workers, or added again, so that it is found without a heartbeat. The last one of a shared memory takes the notes about
-- it along, unless results or dead jobs are left: those are found by them.
-- KEYS[1]  workers of the namespace
-- KEYS[2]  heartbeat of the worker
-- KEYS[3]  its claims
-- KEYS[4]  crews
-- KEYS[5]  segments of the namespace
-- KEYS[6]  dead list
-- KEYS[7…] its lists
-- ARGV[1]  worker
-- ARGV[2]  namespace
-- ARGV[3]  name of its crew
-- ARGV[4]  milliseconds after which no worker is left that might commit a barred segment
-- Returns 1 if it was struck off.
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
