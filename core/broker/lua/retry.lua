-- Schedule a job for another attempt: it goes to the tail of its queue after a delay, or at once
-- without one.
-- USES ownership, lists
-- KEYS attempts
-- ARGV counts: '1' if this counts as an attempt, else '0'
-- ARGV delay_ms: delay in milliseconds
-- Returns 'waits', 'landed' if an earlier call did it, or 'lost' if the payload is no longer this
-- worker's.
--
-- The first write frees memory, so a full server refuses nothing.
local owner = ownership()
if owner ~= 'mine' then
  return owner
end
redis.call('HEXISTS', attempts, sha1)
local seconds = delay_ms / 1000
local is_message = not string.find(payload, '\0', 1, true)
if not is_message and not is_list(queue) then
  return redis.error_reply('WRONGTYPE ' .. queue .. ' is no list')
end
drop_claim()
if is_list(queue) and (seconds <= 0 or not is_message) then
  redis.call('RPUSH', queue, payload)
else
  wait(math.max(seconds, 0))
end
if counts == '1' then
  redis.call('HINCRBY', attempts, sha1, 1)
end
return 'waits'
