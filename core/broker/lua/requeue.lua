-- Put the jobs of a dead worker back at the head of their queue, in their old order. An attempt is
-- added to those that it was working on.
-- USES lists, submissions
-- KEYS lost: the ghost's list of these jobs
-- KEYS ghost_claims: claims of the ghost
-- KEYS queue, attempts, crews
-- ARGV counts: '1' if attempts count
-- ARGV fault: field of the device fault; while jobs are held for it, no attempt is added
-- ARGV jobs*: sha1 and request id (or '') of each payload whose segments have been removed, in the
--   list's order
-- Returns how many were put back; the others have been put back by another reaper.
--
-- The first write frees memory, so a full server refuses nothing.
local work = {}
local claims = redis.call('HGETALL', ghost_claims)
for i = 1, #claims, 2 do
  if string.find(claims[i], ':work', 1, true) then
    work[claims[i + 1]] = claims[i]
  end
end
redis.call('HEXISTS', attempts, '')
local is_held = string.find(redis.call('HGET', crews, fault) or '', '^held')
counts = counts == '1' and not is_held
local now = redis.call('TIME')
if not is_list(queue) then
  return 0  -- the jobs stay in the ghost's list
end
local moved, index = 0, redis.call('LLEN', lost) - 1
for i = #jobs - 1, 1, -2 do
  local sha1, request = jobs[i], jobs[i + 1]
  while index >= 0 do
    local payload = redis.call('LINDEX', lost, index)
    index = index - 1
    if redis.sha1hex(payload) == sha1 then
      redis.call('LREM', lost, -1, payload)
      redis.call('LPUSH', queue, payload)
      if work[sha1] then
        redis.call('HDEL', ghost_claims, work[sha1])
        if counts then
          redis.call('HINCRBY', attempts, sha1, 1)
        end
        work[sha1] = nil
      end
      -- Its worker may not have recorded it yet: it was claimed at an unknown time before now.
      enter_submission(request, sha1, now, (i + 1) / 2, 'u')
      moved = moved + 1
      break
    end
  end
end
return moved
