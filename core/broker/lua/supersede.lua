-- Finish a job whose request has a newer committed result: only its inputs are left, to be
-- unlinked.
-- KEYS[10] cleanup list of the worker
-- Returns 'superseded', 'landed' if an earlier call did it, or 'lost' if the payload is no longer
-- this worker's.
local owner = ownership()
if owner ~= 'mine' then
  return owner
end
redis.call('HEXISTS', KEYS[5], sha1)
redis.call('LLEN', KEYS[10])
supersede(submissions(), KEYS[10])
return 'superseded'
