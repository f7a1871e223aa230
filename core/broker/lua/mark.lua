-- Mark claims as worked on. A claim that has ended or was taken from the worker is not added again.
-- KEYS[1]  claims of the worker
-- ARGV     numbers of the claims
for _, number in ipairs(ARGV) do
  local sha1 = redis.call('HGET', KEYS[1], number)
  if sha1 then
    redis.call('HSET', KEYS[1], number .. ':work', sha1)
  end
end
return 1
