-- Finish a job that has expired: publish this, and put its inputs on the cleanup list.
-- KEYS[10] cleanup list of the worker
-- KEYS[11] result hash of the request
-- KEYS[12] result queue (absent if there is none)
-- ARGV[9]  milliseconds that the result hash lives
-- ARGV[10] to ARGV[12]: the outcome for the result queue (see outcomes.lua)
-- ARGV[13…] fields and values of the hash
-- Returns
--   {'expired', what push_outcome returns};
--   'landed' if an earlier call did it;
--   'lost' if the payload is no longer this worker's;
--   'superseded' if the result of a newer submission has been committed: nothing is published.
--
-- All or nothing: the first write is one that a full server refuses.
local entries, reply = to_be_failed(KEYS[10])
if not entries then
  return reply
end
redis.call('RPUSH', KEYS[10], payload)
local dropped = publish_failure(KEYS[11], KEYS[12], ARGV[9], 10)
redis.call('HDEL', KEYS[5], sha1)
drop_claim()
leave_submissions(entries)
return {'expired', dropped}
