-- Find an entry of the dead-letter list, from an index towards the head. Entries are pushed to the
-- tail, so the removal of others only moves an entry towards the head.
-- KEYS dead
-- ARGV start: index at which the search begins
-- ARGV head, length: of the entry
-- ARGV most_bytes: bytes that may be copied; the search stops after the group that exceeds them
-- Returns {1, index of the entry}, or {0, index at which to continue}, which is -1 if the entry is
-- not on the list.
local LONGEST_GROUP = 32
length = tonumber(length)
local budget = tonumber(most_bytes)
local index = math.min(tonumber(start), redis.call('LLEN', dead) - 1)
local group = 1
while index >= 0 and budget > 0 do
  local first = math.max(0, index - group + 1)
  local entries = redis.call('LRANGE', dead, first, index)
  local copied = 0
  for i = #entries, 1, -1 do
    if #entries[i] == length and string.sub(entries[i], 1, #head) == head then
      return {1, first + i - 1}
    end
    copied = copied + #entries[i]
  end
  index, budget = first - 1, budget - copied
  local fitting = math.floor(budget * #entries / math.max(copied, 1))
  group = math.max(1, math.min(2 * group, LONGEST_GROUP, fitting))
end
return {0, index}
