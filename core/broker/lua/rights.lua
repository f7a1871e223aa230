-- Check that this user may run every command of the other scripts. A command that is refused in the
-- middle of a script would leave it half done, and could lose a message.
-- KEYS key: one that nobody else uses; deleted afterwards
-- KEYS result_queue?: only read, but Redis checks the right to every key in KEYS
-- ARGV moves: '1' if jobs are moved from list to list (at-least-once delivery)
-- Returns 1, or the error of the first command that is refused; leaves nothing behind.
--
-- The first write needs no memory, so a full server refuses nothing after it.
local refusal

local function try(...)
  if not refusal then
    local reply = redis.pcall(...)
    refusal = type(reply) == 'table' and reply.err and reply
  end
end

redis.call('DEL', key)
try('RPUSH', key, 'a')
try('LPUSH', key, 'b')
if moves == '1' then
  try('LMOVE', key, key, 'LEFT', 'RIGHT')
end
try('LLEN', key)
try('LINDEX', key, 0)
try('LRANGE', key, 0, 0)
try('LPOS', key, 'a')
try('LREM', key, 1, 'a')
try('LPOP', key)
try('LTRIM', key, 1, -1)
try('HSET', key, 'a', 1)
try('HSETNX', key, 'b', 1)
try('HINCRBY', key, 'a', 1)
try('HGET', key, 'a')
try('HGETALL', key)
try('HKEYS', key)
try('HLEN', key)
try('HEXISTS', key, 'a')
try('HSCAN', key, 0)
try('HDEL', key, 'a', 'b')
try('ZADD', key, 1, 'a')
try('ZSCORE', key, 'a')
try('ZRANGE', key, 0, 0)
try('ZSCAN', key, 0)
try('ZCOUNT', key, 0, 1)
try('ZCARD', key)
try('ZREM', key, 'a')
try('SADD', key, 'a')
try('SMEMBERS', key)
try('SISMEMBER', key, 'a')
try('SCARD', key)
try('SREM', key, 'a')
try('SET', key, 1, 'PX', 1000)
try('PERSIST', key)
try('PEXPIRE', key, 1000)
try('EXISTS', key)
try('TYPE', key)
try('TIME')
redis.call('DEL', key)
return refusal or 1
