-- Move up to `count` payloads from the head of a queue to a worker's processing list. One that has
-- an attempt against it comes alone: should it kill this worker too, no other was in its hands.
-- KEYS[1]  queue
-- KEYS[2]  processing list of the worker and kind
-- KEYS[3]  hash of attempts
-- ARGV[1]  count
-- ARGV[2]  sha1 of the payload that these are to join, or ''
-- Returns the payloads, in the queue's order.
local joins = ARGV[2] ~= ''
if joins and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 1 then
  return {}
end
local taken = {}
for i = 1, tonumber(ARGV[1]) do
  local payload = redis.call('LINDEX', KEYS[1], 0)
  if not payload then
    break
  end
  local alone = redis.call('HEXISTS', KEYS[3], redis.sha1hex(payload)) == 1
  if alone and (joins or i > 1) then
    break
  end
  taken[i] = redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
  if alone then
    break
  end
end
return taken
