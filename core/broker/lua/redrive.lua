-- Put a dead job back at the tail of its queue, with its attempts reset.
-- KEYS[2]  queue
-- KEYS[3]  attempts
-- KEYS[4]  result hash of the request (absent if the request is not known)
-- ARGV[4]  payload
-- ARGV[5]  sha1 of the payload
-- Returns 1, or -1 if another entry is at the index.
--
-- All or nothing: a full server checks a script's first write only, and never refuses LREM.
-- Commands that fail on a key of the wrong type come before it.
local entry = find_entry()
if not entry then
  return -1
end
redis.call('LLEN', KEYS[2])
redis.call('HLEN', KEYS[3])
remove(entry)
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('HDEL', KEYS[3], ARGV[5])
-- A client that waits for the result must not read the old failure.
if KEYS[4] and redis.call('TYPE', KEYS[4]).ok == 'hash'
  and redis.call('HGET', KEYS[4], 'status') == 'failed'
  and redis.call('HEXISTS', KEYS[4], 'inpaint_shm_info') == 0
then
  redis.call('DEL', KEYS[4])
end
return 1
