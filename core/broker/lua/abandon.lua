-- Remove part of the results of a namespace that is gone: their records, and hashes not yet
-- fetched.
-- KEYS segments
-- ARGV most: largest number of records to remove
-- ARGV result_prefix: prefix of the keys of result hashes
-- Returns the number of records that remain.
for _, member in ipairs(redis.call('ZRANGE', segments, 0, most - 1)) do
  local segment, request = string.match(member, '^(%S+) (.*)$')
  if segment and tonumber(redis.call('ZSCORE', segments, member)) > 0 then
    local key = result_prefix .. request
    local info = redis.call('TYPE', key).ok == 'hash' and redis.call('HGET', key, 'inpaint_shm_info')
    if info and string.find(info, segment, 1, true) then
      redis.call('DEL', key)
    end
  end
  redis.call('ZREM', segments, member)
end
return redis.call('ZCARD', segments)
