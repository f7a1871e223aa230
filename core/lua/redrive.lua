-- Put a dead job back to the tail of its queue, with no attempt against it.
-- KEYS[1]  dead list
-- KEYS[2]  queue
-- KEYS[3]  attempts
-- KEYS[4]  result hash of the request (absent if the request is not known)
-- ARGV[1]  entry of the dead list
-- ARGV[2]  payload
-- ARGV[3]  sha1 of the payload
-- Returns 1, or 0 if the entry is no longer on the list.
--
-- The first write is one that a full server refuses, so that nothing or everything is changed.
if not redis.call('LPOS', KEYS[1], ARGV[1]) then
  return 0
end
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('LREM', KEYS[1], 1, ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[3])
-- Whoever waits for the result shall not read the old failure.
if KEYS[4] and redis.call('TYPE', KEYS[4]).ok == 'hash'
  and redis.call('HGET', KEYS[4], 'status') == 'failed'
  and redis.call('HEXISTS', KEYS[4], 'inpaint_shm_info') == 0
then
  redis.call('DEL', KEYS[4])
end
return 1
