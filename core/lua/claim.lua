-- Move up to `count` payloads from the head of a queue to a worker's processing list.
-- KEYS[1]  queue
-- KEYS[2]  processing list of the worker and kind
-- ARGV[1]  count
-- Returns the payloads, in the queue's order.
local taken = {}
for i = 1, tonumber(ARGV[1]) do
  local payload = redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
  if not payload then
    break
  end
  taken[i] = payload
end
return taken
