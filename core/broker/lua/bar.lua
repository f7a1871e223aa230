-- Bar a segment that a dead worker wrote and did not commit from being committed later.
-- KEYS segments
-- ARGV member: member of the set
-- ARGV score: the time at which this may be forgotten, in unix seconds, negated
-- Returns 1 if the segment is to be unlinked, 0 if it was committed.
--
-- The first write frees memory, so a full server refuses nothing.
local known = redis.call('ZSCORE', segments, member)
if known and tonumber(known) >= 0 then
  return 0
end
redis.call('ZREM', segments, member)
redis.call('ZADD', segments, score, member)
return 1
