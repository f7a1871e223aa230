-- Register a worker: before it claims anything, and again when its heartbeat has expired.
-- KEYS heartbeat, workers, crews, segments
-- ARGV worker
-- ARGV value: value of the heartbeat
-- ARGV ttl_ms: time to live of the heartbeat, in milliseconds
-- ARGV crew: name of the worker's crew
-- ARGV description: of the crew (JSON)
--
-- The first write needs no memory, so a full server refuses nothing after it.
redis.call('SISMEMBER', workers, worker)
redis.call('HEXISTS', crews, crew)
redis.call('DEL', heartbeat)
redis.call('SET', heartbeat, value, 'PX', ttl_ms)
redis.call('SADD', workers, worker)
redis.call('PERSIST', segments)  -- the last worker here may have set an expiry
redis.call('HSET', crews, crew, description, crew .. ' seen', redis.call('TIME')[1])
return 1
