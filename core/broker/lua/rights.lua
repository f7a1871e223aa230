-- Check that this user may run every command of the other scripts. A command that is refused in the
-- middle of a script would leave it half done, and could lose a message.
-- KEYS key: one that nobody else uses; deleted afterwards
-- KEYS result_queue?: only read, but Redis checks the right to every key in KEYS
-- ARGV moves: '1' if jobs are moved from list to list (at-least-once delivery)
-- Returns 1; fails with the name of the first command that is refused.
--
-- The first write needs no memory, so a full server refuses nothing after it.
redis.call('DEL', key)
redis.call('RPUSH', key, 'a')
redis.call('LPUSH', key, 'b')
if moves == '1' then
  redis.call('LMOVE', key, key, 'LEFT', 'RIGHT')
end
redis.call('LLEN', key)
redis.call('LINDEX', key, 0)
redis.call('LRANGE', key, 0, 0)
redis.call('LPOS', key, 'a')
redis.call('LREM', key, 1, 'a')
redis.call('LPOP', key)
redis.call('LTRIM', key, 1, -1)
redis.call('HSET', key, 'a', 1)
redis.call('HSETNX', key, 'b', 1)
redis.call('HINCRBY', key, 'a', 1)
redis.call('HGET', key, 'a')
redis.call('HGETALL', key)
redis.call('HKEYS', key)
redis.call('HLEN', key)
redis.call('HEXISTS', key, 'a')
redis.call('HSCAN', key, 0)
redis.call('HDEL', key, 'a', 'b')
redis.call('ZADD', key, 1, 'a')
redis.call('ZSCORE', key, 'a')
redis.call('ZRANGE', key, 0, 0)
redis.call('ZSCAN', key, 0)
redis.call('ZCOUNT', key, 0, 1)
redis.call('ZCARD', key)
redis.call('ZREM', key, 'a')
redis.call('SADD', key, 'a')
redis.call('SMEMBERS', key)
redis.call('SISMEMBER', key, 'a')
redis.call('SCARD', key)
redis.call('SREM', key, 'a')
redis.call('SET', key, 1, 'PX', 1000)
redis.call('PERSIST', key)
redis.call('PEXPIRE', key, 1000)
redis.call('EXISTS', key)
redis.call('TYPE', key)
redis.call('TIME')
redis.call('DEL', key)
return 1
