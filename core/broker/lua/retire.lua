-- Note that a segment is gone, or about to be, and must not be committed (again).
-- KEYS[1]  segments of the namespace
-- ARGV[1]  member of the set
-- ARGV[2]  its score: when that may be forgotten, in unix seconds, negated
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
end
return 1
