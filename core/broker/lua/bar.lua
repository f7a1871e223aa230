-- Bar a segment that a dead worker wrote and did not commit from being committed later.
-- KEYS[1]  segments of the namespace
-- ARGV[1]  member of the set
-- ARGV[2]  its score: the time at which this may be forgotten, in unix seconds, negated
-- Returns 1 if the segment is to be unlinked, 0 if it was committed.
--
-- The first write frees memory, so a full server refuses nothing.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) >= 0 then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
