-- Prepended to the scripts that publish a failure.

-- Write a failure into a request's result hash, which then lives for some milliseconds, and push its
-- outcome. From ARGV[first] on are the three arguments of push_outcome, then the fields and values of
-- the hash. A failure never replaces a result, and is not pushed then: the second copy of a job that
-- was sent twice finds no inputs. Without a key, nothing is published. Returns what push_outcome
-- returns.
local function publish_failure(key, queue, milliseconds, first)
  local kind = key and redis.call('TYPE', key).ok
  if kind == 'none' or (kind == 'hash' and redis.call('HEXISTS', key, 'inpaint_shm_info') == 0)
  then
    redis.call('HSET', key, unpack(ARGV, first + 3))
    redis.call('PEXPIRE', key, milliseconds)
    return push_outcome(queue, first)
  end
  return 0
end
