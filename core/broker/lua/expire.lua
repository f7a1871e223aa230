-- Expire a result whose time to live is over.
-- USES late_results
-- KEYS segments, result
-- ARGV member: member of the segments
-- ARGV segment: name of its segment
-- ARGV now: by the clock of the namespace (see tick.lua)
-- Returns 1 if the result was replaced (score 0) or never fetched: the segment is to be unlinked,
-- and its member retired afterwards (see retire.lua). Returns 0 if there is nothing to do: the
-- reader that deleted the hash now owns the segment.
local expiry = redis.call('ZSCORE', segments, member)
if not expiry or tonumber(expiry) < 0 or tonumber(expiry) > tonumber(now) then
  return 0
end
if tonumber(expiry) == 0 then
  return 1
end
if redis.call('TYPE', result).ok == 'hash' then
  local info = redis.call('HGET', result, 'inpaint_shm_info')
  local readable, described = pcall(cjson.decode, info or '')
  if readable and type(described) == 'table' and described.shm_name == segment then
    redis.call('DEL', result)  -- first, since a full server refuses nothing after it
    redis.call('ZADD', segments, 0, member)
    return 1
  end
end
redis.call('ZREM', segments, member)
local until_then = searched_until(segment, member)
if until_then then
  redis.call('ZADD', segments, until_then + 1, member)
end
return 0
