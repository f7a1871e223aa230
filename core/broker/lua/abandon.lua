-- Remove part of the results of a namespace that is gone: their records, and hashes not yet
-- fetched.
-- KEYS[1]  segments of the namespace
-- ARGV[1]  largest number of records to remove
-- ARGV[2]  prefix of the keys of result hashes
-- Returns the number of records that remain.
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do
  local segment, request = string.match(member, '^(%S+) (.*)$')
  if segment and tonumber(redis.call('ZSCORE', KEYS[1], member)) > 0 then
    local key = ARGV[2] .. request
    local info = redis.call('TYPE', key).ok == 'hash' and redis.call('HGET', key, 'inpaint_shm_info')
    if info and string.find(info, segment, 1, true) then
      redis.call('DEL', key)
    end
  end
  redis.call('ZREM', KEYS[1], member)
end
return redis.call('ZCARD', KEYS[1])
