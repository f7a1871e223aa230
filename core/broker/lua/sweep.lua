-- Drop the entries of results that were fetched: the hash is gone, or names another segment.
-- KEYS[1]  segments of the namespace
-- ARGV[1]  cursor
-- ARGV[2]  entries to look at, about
-- ARGV[3]  what the keys of result hashes begin with
-- Returns the next cursor, '0' at the end, and how many were dropped.
--
-- An entry with a whole number as its score stays: the worker that committed it may not have heard
-- so, and tells its own success by the entry.
local reply = redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found, dropped = reply[2], 0
for i = 1, #found, 2 do
  local member, score = found[i], tonumber(found[i + 1])
  if score > 0 and score % 1 ~= 0 then
    local segment, request = string.match(member, '^(%S+) (.*)$')
    local key = ARGV[3] .. request
    local info = redis.call('TYPE', key).ok == 'hash' and redis.call('HGET', key, 'inpaint_shm_info')
    local is_there = info and string.find(info, segment, 1, true)
    if not is_there and not searched_until(KEYS[1], segment, member) then
      redis.call('ZREM', KEYS[1], member)
      dropped = dropped + 1
    end
  end
end
return {reply[1], dropped}
