-- Finish a job that has expired: publish this, and put its inputs on the cleanup list.
-- USES superseding, failures
-- Returns
--   {'expired', what push_outcome returns};
--   'landed' if an earlier call did it;
--   'lost' if the payload is no longer this worker's;
--   'superseded' if the result of a newer submission has been committed: nothing is published.
--
-- All or nothing: the first write is one that a full server refuses.
local entries, reply = to_be_failed()
if not entries then
  return reply
end
redis.call('RPUSH', cleanup, payload)
local dropped = publish_failure()
redis.call('HDEL', attempts, sha1)
drop_claim()
leave_submissions(entries)
return {'expired', dropped}
