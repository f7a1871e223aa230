-- Mark claims as worked on. A claim that has ended or was taken from the worker is not added again.
-- KEYS claims
-- ARGV numbers*: numbers of the claims
for _, number in ipairs(numbers) do
  local sha1 = redis.call('HGET', claims, number)
  if sha1 then
    redis.call('HSET', claims, number .. ':work', sha1)
  end
end
return 1
