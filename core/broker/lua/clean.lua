-- Drop a job from the cleanup list: its inputs have been unlinked.
-- KEYS[1]  cleanup list of the worker
-- KEYS[2]  segments of the namespace
-- ARGV[1]  payload
-- ARGV[2]  member of the segments, or ''
--
-- The worker knows of its commit. Half a second is added to the record's score, which marks it as
-- one that may go as soon as the result is fetched (see sweep.lua).
redis.call('LREM', KEYS[1], 1, ARGV[1])
local score = ARGV[2] ~= '' and tonumber(redis.call('ZSCORE', KEYS[2], ARGV[2]))
if score and score > 0 then
  redis.call('ZADD', KEYS[2], math.floor(score) + 0.5, ARGV[2])
end
return 1
