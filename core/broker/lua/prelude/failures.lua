-- Prepended to the scripts that publish a failure.

-- Write the fields and values in ARGV from `first` on into a request's result hash, which then lives
-- for some milliseconds. A failure never replaces a result: the second copy of a job that was sent
-- twice finds no inputs. Returns whether it was written.
local function publish_failure(key, milliseconds, first)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' or (kind == 'hash' and redis.call('HEXISTS', key, 'inpaint_shm_info') == 0)
  then
    redis.call('HSET', key, unpack(ARGV, first))
    redis.call('PEXPIRE', key, milliseconds)
    return true
  end
  return false
end

