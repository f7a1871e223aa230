-- Give a job up: put it on the dead list and tell whoever waits for its result.
-- KEYS[1]  processing list of the worker and kind
-- KEYS[2]  dead list
-- KEYS[3]  attempts
-- KEYS[4]  result hash of the request (absent if the request is not known)
-- ARGV[1]  '1' if the payload must still be in the processing list (at-least-once delivery)
-- ARGV[2]  payload
-- ARGV[3]  sha1 of the payload
-- ARGV[4]  entry of the dead list
-- ARGV[5]  milliseconds that the result hash lives
-- ARGV[6…] fields and values of the hash
-- Returns 1, or 0 if the payload is no longer this worker's.
--
-- The first write is one that a full server refuses, so that nothing or everything is changed.
local fenced, payload = ARGV[1] == '1', ARGV[2]
if fenced and not redis.call('LPOS', KEYS[1], payload) then
  return 0
end
redis.call('RPUSH', KEYS[2], ARGV[4])
if KEYS[4] then
  local kind = redis.call('TYPE', KEYS[4]).ok
  -- A failure never replaces a result: of a job sent twice, the second finds its inputs gone.
  if kind == 'none' or (kind == 'hash' and redis.call('HEXISTS', KEYS[4], 'inpaint_shm_info') == 0)
  then
    redis.call('HSET', KEYS[4], unpack(ARGV, 6))
    redis.call('PEXPIRE', KEYS[4], ARGV[5])
  end
end
redis.call('HDEL', KEYS[3], ARGV[3])
if fenced then
  redis.call('LREM', KEYS[1], 1, payload)
end
return 1
