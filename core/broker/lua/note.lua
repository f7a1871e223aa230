-- Note something about a crew, unless its last worker has removed the notes about it.
-- KEYS crews
-- ARGV crew: its name
-- ARGV what: 'seen' or 'sighted'
-- ARGV value
--
-- The first write needs no memory, so a full server refuses nothing after it.
if redis.call('HEXISTS', crews, crew) == 1 then
  redis.call('HDEL', crews, crew .. ' ' .. what)
  redis.call('HSET', crews, crew .. ' ' .. what, value)
end
return 1
