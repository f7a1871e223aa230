-- Put a dead job back at the tail of its queue, with its attempts reset.
-- USES entries
-- KEYS queue, attempts
-- KEYS result?: that of the request, if it is known
-- ARGV payload, sha1
-- Returns 1, or -1 if another entry is at the index.
--
-- All or nothing: a full server checks a script's first write only, and never refuses LREM.
-- Commands that fail on a key of the wrong type come before it.
local entry = find_entry()
if not entry then
  return -1
end
redis.call('LLEN', queue)
redis.call('HLEN', attempts)
remove(entry)
redis.call('RPUSH', queue, payload)
redis.call('HDEL', attempts, sha1)
-- A client that waits for the result must not read the old failure.
if result and redis.call('TYPE', result).ok == 'hash'
  and redis.call('HGET', result, 'status') == 'failed'
  and redis.call('HEXISTS', result, 'inpaint_shm_info') == 0
then
  redis.call('DEL', result)
end
return 1
