-- Take up to `count` payloads from the head of a queue for good (at-most-once delivery).
-- KEYS[1]  queue
-- ARGV[1]  count
-- Returns the payloads, in the queue's order.
local taken = {}
for i = 1, tonumber(ARGV[1]) do
  local payload = redis.call('LPOP', KEYS[1])
  if not payload then
    break
  end
  taken[i] = payload
end
return taken
