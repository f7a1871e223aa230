-- Put the jobs of a dead worker back at the head of their queue, in their old order. An attempt is
-- added to those that it was working on.
-- KEYS[1]  the ghost's list of these jobs
-- KEYS[2]  queue
-- KEYS[3]  attempts
-- KEYS[4]  claims of the ghost
-- KEYS[5]  submissions
-- KEYS[6]  crews
-- ARGV[1]  '1' if attempts count
-- ARGV[2]  field of the device fault; while jobs are held for it, no attempt is added
-- ARGV[3…] sha1 and request id (or '') of each payload whose segments have been removed, in the
--          list's order
-- Returns how many were put back; the others have been put back by another reaper.
--
-- The first write frees memory, so a full server refuses nothing.
local work = {}
local claims = redis.call('HGETALL', KEYS[4])
for i = 1, #claims, 2 do
  if string.find(claims[i], ':work', 1, true) then
    work[claims[i + 1]] = claims[i]
  end
end
redis.call('HEXISTS', KEYS[3], '')
local is_held = string.find(redis.call('HGET', KEYS[6], ARGV[2]) or '', '^held')
local counts = ARGV[1] == '1' and not is_held
local now = redis.call('TIME')
if not is_list(KEYS[2]) then
  return 0  -- the jobs stay in the ghost's list
end
local moved, index = 0, redis.call('LLEN', KEYS[1]) - 1
for i = #ARGV - 1, 3, -2 do
  while index >= 0 do
    local payload = redis.call('LINDEX', KEYS[1], index)
    index = index - 1
    if redis.sha1hex(payload) == ARGV[i] then
      redis.call('LREM', KEYS[1], -1, payload)
      redis.call('LPUSH', KEYS[2], payload)
      if work[ARGV[i]] then
        redis.call('HDEL', KEYS[4], work[ARGV[i]])
        if counts then
          redis.call('HINCRBY', KEYS[3], ARGV[i], 1)
        end
        work[ARGV[i]] = nil
      end
      -- Its worker may not have recorded it yet: it was claimed at an unknown time before now.
      enter_submission(KEYS[5], ARGV[i + 1], ARGV[i], now, i / 2, 'u')
      moved = moved + 1
      break
    end
  end
end
return moved
