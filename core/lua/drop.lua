-- Remove an entry from the dead list. A full server does not refuse that.
-- KEYS[1]  dead list
-- ARGV[1]  index of the entry
-- ARGV[2]  head of the entry
-- ARGV[3]  length of the entry
-- Returns 1, or -1 if another entry is at the index.
local entry = redis.call('LINDEX', KEYS[1], ARGV[1])
if not entry or #entry ~= tonumber(ARGV[3]) or string.sub(entry, 1, #ARGV[2]) ~= ARGV[2] then
  return -1
end
local from_head = tonumber(ARGV[1]) < redis.call('LLEN', KEYS[1]) / 2
redis.call('LREM', KEYS[1], from_head and 1 or -1, entry)
return 1
