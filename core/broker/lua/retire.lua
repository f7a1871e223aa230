-- Mark a segment that has been unlinked, or is about to be, so that it is never committed again.
-- KEYS segments
-- ARGV member: member of the set
-- ARGV score: the time at which this may be forgotten, in unix seconds, negated
if redis.call('ZREM', segments, member) == 1 then
  redis.call('ZADD', segments, score, member)
end
return 1
