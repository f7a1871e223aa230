-- Finish a job whose request has a newer committed result: only its inputs are left, to be
-- unlinked.
-- USES superseding
-- Returns 'superseded', 'landed' if an earlier call did it, or 'lost' if the payload is no longer
-- this worker's.
local owner = ownership()
if owner ~= 'mine' then
  return owner
end
redis.call('HEXISTS', attempts, sha1)
redis.call('LLEN', cleanup)
supersede(read_submissions())
return 'superseded'
