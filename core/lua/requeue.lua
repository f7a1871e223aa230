-- Put jobs that a dead worker lost back to the head of their queue, in their old order, with an
-- attempt against each.
-- KEYS[1]  list of lost jobs
-- KEYS[2]  queue
-- KEYS[3]  attempts
-- ARGV     payloads in the list's order: those whose segments have been removed
-- Returns how many were put back; the others have been put back by another reaper.
local moved = 0
for i = #ARGV, 1, -1 do
  if redis.call('LPOS', KEYS[1], ARGV[i]) then
    redis.call('LPUSH', KEYS[2], ARGV[i])
    redis.call('HINCRBY', KEYS[3], redis.sha1hex(ARGV[i]), 1)
    redis.call('LREM', KEYS[1], -1, ARGV[i])
    moved = moved + 1
  end
end
return moved
