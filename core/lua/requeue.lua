-- Put jobs that a dead worker lost back to the head of their queue, in their old order, with an
-- attempt against each.
-- KEYS[1]  list of lost jobs
-- KEYS[2]  queue
-- KEYS[3]  attempts
-- Returns how many were put back.
local moved = 0
while true do
  local payload = redis.call('RPOP', KEYS[1])
  if not payload then
    return moved
  end
  redis.call('LPUSH', KEYS[2], payload)
  redis.call('HINCRBY', KEYS[3], redis.sha1hex(payload), 1)
  moved = moved + 1
end
