-- Give up a job: put it on the dead-letter list and publish the failure for its request.
-- USES superseding, failures
-- KEYS dead
-- ARGV dead_entry: entry of the dead-letter list
-- ARGV suspect: namespace if the device may be at fault, or ''
-- ARGV fault_s: seconds for which a device fault is remembered
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
local entries, reply = to_be_failed()
if not entries then
  return reply
end
local now = tonumber(redis.call('TIME')[1])
local fault = suspect .. ' fault'
if suspect ~= '' then
  local known = redis.call('HGET', crews, fault) or ''
  local first, since = string.match(known, '(%x+) (%d+)$')
  if first and first ~= sha1 and now - tonumber(since) < tonumber(fault_s) then
    redis.call('HSET', crews, fault, 'held ' .. first .. ' ' .. now)
    if not string.find(known, '^held') then
      redis.call('DEL', attempts)  -- earlier failures may have been the device's
    end
    return 'held'
  end
end
redis.call('RPUSH', dead, dead_entry)
if suspect ~= '' then
  redis.call('HSET', crews, fault, 'given up ' .. sha1 .. ' ' .. now)
end
local dropped = publish_failure()
redis.call('HDEL', attempts, sha1)
drop_claim()
leave_submissions(entries)
return {'failed', dropped}
