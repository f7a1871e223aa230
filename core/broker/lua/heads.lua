-- Read the heads of entries of the dead-letter list, a few megabytes at most.
-- KEYS dead
-- ARGV first: index of the first entry
-- ARGV count: largest number of entries
-- ARGV most_bytes: bytes that may be copied; the script stops after the entry that exceeds them
-- ARGV head_bytes: bytes of a head
-- Returns head and length of the first entry, of the second, and so on.
--
-- Redis tells the size of an entry only by copying it. So entries are copied in groups, each at
-- most twice as long as the one before, and shorter if the entries turn out to be large.
local LONGEST_GROUP = 32
local index, most, budget = tonumber(first), tonumber(count), tonumber(most_bytes)
local heads, group = {}, 1
while most > 0 and budget > 0 do
  local entries = redis.call('LRANGE', dead, index, index + math.min(group, most) - 1)
  if #entries == 0 then
    break
  end
  local copied = 0
  for _, entry in ipairs(entries) do
    heads[#heads + 1] = string.sub(entry, 1, tonumber(head_bytes))
    heads[#heads + 1] = #entry
    copied = copied + #entry
  end
  index, most, budget = index + #entries, most - #entries, budget - copied
  local fitting = math.floor(budget * #entries / math.max(copied, 1))
  group = math.max(1, math.min(2 * group, LONGEST_GROUP, fitting))
end
return heads
