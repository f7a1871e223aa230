-- Put claimed jobs that were not started back to the head of their queue, in their old order.
-- KEYS[1]  processing list of the worker and kind
-- KEYS[2]  queue
-- ARGV[1]  '1' if a payload must still be in the processing list (at-least-once delivery)
-- ARGV[2…] payloads in the order in which they were claimed
-- Returns how many were put back; the others are no longer this worker's.
local fenced, released = ARGV[1] == '1', 0
for i = #ARGV, 2, -1 do
  if not fenced or redis.call('LPOS', KEYS[1], ARGV[i]) then
    redis.call('LPUSH', KEYS[2], ARGV[i])
    if fenced then
      redis.call('LREM', KEYS[1], 1, ARGV[i])
    end
    released = released + 1
  end
end
return released
