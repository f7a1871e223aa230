-- Schedule a job for another attempt: it goes to the tail of its queue after a delay, or at once
-- without one.
-- ARGV[9]  '1' if this counts as an attempt, else '0'
-- ARGV[10] delay in milliseconds
-- Returns 'waits', 'landed' if an earlier call did it, or 'lost' if the payload is no longer this
-- worker's.
--
-- The first write frees memory, so a full server refuses nothing.
local owner = ownership()
if owner ~= 'mine' then
  return owner
end
redis.call('HEXISTS', KEYS[5], sha1)
local seconds = ARGV[10] / 1000
local is_message = not string.find(payload, '\0', 1, true)
if not is_message and not is_list(KEYS[3]) then
  return redis.error_reply('WRONGTYPE ' .. KEYS[3] .. ' is no list')
end
drop_claim()
if is_list(KEYS[3]) and (seconds <= 0 or not is_message) then
  redis.call('RPUSH', KEYS[3], payload)
else
  wait(math.max(seconds, 0))
end
if ARGV[9] == '1' then
  redis.call('HINCRBY', KEYS[5], sha1, 1)
end
return 'waits'
