-- Expire a result whose time to live is over.
-- KEYS[1]  segments of the namespace
-- KEYS[2]  result hash of the request
-- ARGV[1]  member of the set
-- ARGV[2]  name of its segment
-- ARGV[3]  now, by the clock of the namespace (see tick.lua)
-- Returns 1 if the result was replaced (score 0) or never fetched: the segment is to be unlinked,
-- and its member retired afterwards (see retire.lua). Returns 0 if there is nothing to do: the
-- reader that deleted the hash now owns the segment.
local expiry = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not expiry or tonumber(expiry) < 0 or tonumber(expiry) > tonumber(ARGV[3]) then
  return 0
end
if tonumber(expiry) == 0 then
  return 1
end
if redis.call('TYPE', KEYS[2]).ok == 'hash' then
  local info = redis.call('HGET', KEYS[2], 'inpaint_shm_info')
  local readable, described = pcall(cjson.decode, info or '')
  if readable and type(described) == 'table' and described.shm_name == ARGV[2] then
    redis.call('DEL', KEYS[2])  -- first, since a full server refuses nothing after it
    redis.call('ZADD', KEYS[1], 0, ARGV[1])
    return 1
  end
end
redis.call('ZREM', KEYS[1], ARGV[1])
local until_then = searched_until(KEYS[1], ARGV[2], ARGV[1])
if until_then then
  redis.call('ZADD', KEYS[1], until_then + 1, ARGV[1])
end
return 0
