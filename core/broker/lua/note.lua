-- Note something about a crew, unless its last worker has removed the notes about it.
-- KEYS[1]  crews
-- ARGV[1]  name of the crew
-- ARGV[2]  'seen' or 'sighted'
-- ARGV[3]  value
--
-- The first write needs no memory, so a full server refuses nothing after it.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('HDEL', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
  redis.call('HSET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], ARGV[3])
end
return 1
