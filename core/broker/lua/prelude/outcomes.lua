-- For the scripts that publish the outcome of a job.
-- USES lists
-- KEYS result_queue?: if there is one
-- ARGV outcome: JSON, or '' if there is no result queue
-- ARGV most_outcomes: largest number of outcomes in the queue; the oldest are dropped
-- ARGV queue_ms: milliseconds that the queue lives, '0' if it has no expiry

-- Push the outcome to the result queue. Returns the number of dropped outcomes, -1 if the key is not
-- a list, so that nothing was pushed.
local function push_outcome()
  if not result_queue then
    return 0
  end
  if not is_list(result_queue) then
    return -1
  end
  local excess = redis.call('RPUSH', result_queue, outcome) - tonumber(most_outcomes)
  if excess > 0 then
    redis.call('LTRIM', result_queue, excess, -1)
  end
  if queue_ms ~= '0' then
    redis.call('PEXPIRE', result_queue, queue_ms)
  end
  return math.max(excess, 0)
end
