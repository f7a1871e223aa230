-- Put a job that cannot be done now back to the tail of its queue.
-- KEYS[1]  processing list of the worker and kind
-- KEYS[2]  queue
-- KEYS[3]  attempts
-- ARGV[1]  '1' if the payload must still be in the processing list (at-least-once delivery)
-- ARGV[2]  payload
-- ARGV[3]  sha1 of the payload, if this was an attempt; '' if nothing is held against the job
-- Returns 1, or 0 if the payload is no longer this worker's.
if ARGV[1] == '1' and not redis.call('LPOS', KEYS[1], ARGV[2]) then
  return 0
end
redis.call('RPUSH', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HINCRBY', KEYS[3], ARGV[3], 1)
end
if ARGV[1] == '1' then
  redis.call('LREM', KEYS[1], 1, ARGV[2])
end
return 1
