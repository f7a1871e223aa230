-- Have a segment that a dead worker wrote and did not commit never be committed.
-- KEYS[1]  segments of the namespace
-- ARGV[1]  member of the set
-- ARGV[2]  its score: when that may be forgotten, in unix seconds, negated
-- Returns 1 if the segment is to be unlinked, 0 if it was committed.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) >= 0 then
  return 0
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
