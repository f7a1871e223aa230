-- Register a worker: before it claims anything, and again when its heartbeat has expired.
-- KEYS[1]  heartbeat of the worker
-- KEYS[2]  workers of the namespace
-- KEYS[3]  crews
-- KEYS[4]  segments of the namespace
-- ARGV[1]  worker
-- ARGV[2]  value of the heartbeat
-- ARGV[3]  time to live of the heartbeat, in milliseconds
-- ARGV[4]  name of the worker's crew
-- ARGV[5]  description of the crew (JSON)
--
-- The first write needs no memory, so a full server refuses nothing after it.
redis.call('SISMEMBER', KEYS[2], ARGV[1])
redis.call('HEXISTS', KEYS[3], ARGV[4])
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PERSIST', KEYS[4])  -- the last worker here may have set an expiry
redis.call('HSET', KEYS[3], ARGV[4], ARGV[5], ARGV[4] .. ' seen', redis.call('TIME')[1])
return 1
