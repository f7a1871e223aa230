-- Give up a job: put it on the dead-letter list and publish the failure for its request.
-- KEYS[10] dead-letter list
-- KEYS[11] cleanup list of the worker
-- KEYS[12] result hash of the request (absent if the request is not known)
-- KEYS[13] result queue (absent if there is none)
-- ARGV[9]  entry of the dead-letter list
-- ARGV[10] milliseconds that the result hash lives
-- ARGV[11] namespace if the device may be at fault, or ''
-- ARGV[12] seconds for which a device fault is remembered
-- ARGV[13] to ARGV[15]: the outcome for the result queue (see outcomes.lua)
-- ARGV[16…] fields and values of the hash
-- Returns
--   {'failed', what push_outcome returns};
--   'landed' if an earlier call did it;
--   'lost' if the payload is no longer this worker's;
--   'superseded' if the result of a newer submission has been committed: nothing is put on the
--   list;
--   'held' if the device is at fault, that is, another job was given up for such a reason and
--   nothing has been delivered since: nothing is changed.
--
-- All or nothing: the first write is one that a full server refuses.
local entries, reply = to_be_failed(KEYS[11])
if not entries then
  return reply
end
local now = tonumber(redis.call('TIME')[1])
local fault = ARGV[11] .. ' fault'
if ARGV[11] ~= '' then
  local known = redis.call('HGET', KEYS[7], fault) or ''
  local first, since = string.match(known, '(%x+) (%d+)$')
  if first and first ~= sha1 and now - tonumber(since) < tonumber(ARGV[12]) then
    redis.call('HSET', KEYS[7], fault, 'held ' .. first .. ' ' .. now)
    if not string.find(known, '^held') then
      redis.call('DEL', KEYS[5])  -- earlier failures may have been the device's
    end
    return 'held'
  end
end
redis.call('RPUSH', KEYS[10], ARGV[9])
if ARGV[11] ~= '' then
  redis.call('HSET', KEYS[7], fault, 'given up ' .. sha1 .. ' ' .. now)
end
local dropped = publish_failure(KEYS[12], KEYS[13], ARGV[10], 13)
redis.call('HDEL', KEYS[5], sha1)
drop_claim()
leave_submissions(entries)
return {'failed', dropped}
