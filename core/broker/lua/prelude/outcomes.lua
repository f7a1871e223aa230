
-- Prepended to the scripts that publish the outcome of a job.

-- Push an outcome to the result queue. Its three arguments begin at ARGV[first]: the outcome (JSON),
-- or '' if there is no result queue; the largest number of outcomes in the queue, the oldest of which
-- are dropped; the milliseconds that the queue lives, '0' if it has no expiry. Returns the number of
-- dropped outcomes, -1 if the key is not a list, so that nothing was pushed.
local function push_outcome(queue, first)
  if not queue or ARGV[first] == '' then
    return 0
  end
  if not is_list(queue) then
    return -1
  end
  local excess = redis.call('RPUSH', queue, ARGV[first]) - tonumber(ARGV[first + 1])
  if excess > 0 then
    redis.call('LTRIM', queue, excess, -1)
  end
  if ARGV[first + 2] ~= '0' then
    redis.call('PEXPIRE', queue, ARGV[first + 2])
  end
  return math.max(excess, 0)
end
