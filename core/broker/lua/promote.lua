-- Move jobs that are due from the delayed set to the tail of their queue.
-- USES lists
-- KEYS delayed, queue
-- ARGV most: largest number of jobs to move
-- ARGV most_bytes: bytes after which no further job is moved
-- Returns the number of moved jobs and the milliseconds until the next one is due, -1 if there is
-- none.
if not is_list(queue) then
  return {0, -1}
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local moved, bytes = 0, 0
while moved < tonumber(most) and bytes < tonumber(most_bytes) do
  local member, due = unpack(redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES'))
  if not member then
    return {moved, -1}
  end
  if tonumber(due) > now then
    return {moved, math.ceil((tonumber(due) - now) * 1000)}
  end
  local copy = string.find(member, '\0', 1, true)
  redis.call('ZREM', delayed, member)
  redis.call('RPUSH', queue, copy and string.sub(member, 1, copy - 1) or member)
  moved = moved + 1
  bytes = bytes + #member
end
return {moved, 0}
