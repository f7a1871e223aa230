-- For the scripts that publish a failure.
-- USES outcomes
-- KEYS result?: that of the request, if it is known
-- ARGV result_ms: milliseconds that the result hash lives
-- ARGV fields*: fields and values of the hash

-- Write a failure into the request's result hash, and push its outcome. A failure never replaces a
-- result, and is not pushed then: the second copy of a job that was sent twice finds no inputs.
-- Without a key, nothing is published. Returns what push_outcome returns.
local function publish_failure()
  local kind = result and redis.call('TYPE', result).ok
  if not result or (kind == 'hash' and redis.call('HEXISTS', result, 'inpaint_shm_info') == 1) then
    return 0
  end
  if kind ~= 'hash' then
    redis.call('DEL', result)  -- a key of another type is no result
  end
  redis.call('HSET', result, unpack(fields))
  redis.call('PEXPIRE', result, result_ms)
  return push_outcome()
end
