-- Put a job back at the head of its queue; this is no attempt.
-- USES ownership, lists
-- Returns 'released', 'landed' if an earlier call did it, or 'lost' if the payload is no longer
-- this worker's.
--
-- The first write frees memory, so a full server refuses nothing.
local owner = ownership()
if owner ~= 'mine' then
  return owner
end
drop_claim()
if is_list(queue) then
  redis.call('LPUSH', queue, payload)
else
  wait(1)
end
return 'released'
