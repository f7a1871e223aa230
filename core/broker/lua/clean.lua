-- Drop a job from the cleanup list: its inputs have been unlinked.
-- KEYS cleanup, segments
-- ARGV payload
-- ARGV member: member of the segments, or ''
--
-- The worker knows of its commit. Half a second is added to the record's score, which marks it as
-- one that may go as soon as the result is fetched (see sweep.lua).
redis.call('LREM', cleanup, 1, payload)
local score = member ~= '' and tonumber(redis.call('ZSCORE', segments, member))
if score and score > 0 then
  redis.call('ZADD', segments, math.floor(score) + 0.5, member)
end
return 1
