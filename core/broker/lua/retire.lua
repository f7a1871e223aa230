-- Mark a segment that has been unlinked, or is about to be, so that it is never committed again.
-- KEYS[1]  segments of the namespace
-- ARGV[1]  member of the set
-- ARGV[2]  its score: the time at which this may be forgotten, in unix seconds, negated
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
end
return 1
