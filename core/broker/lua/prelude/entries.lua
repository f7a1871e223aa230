-- Prepended to the scripts that remove an entry of the dead-letter list. Their first keys and
-- arguments are the same:
-- KEYS[1]  dead-letter list
-- ARGV[1]  index of the entry
-- ARGV[2]  head of the entry
-- ARGV[3]  length of the entry

-- The entry, or nil if another one is at the index.
local function find_entry()
  local entry = redis.call('LINDEX', KEYS[1], ARGV[1])
  if entry and #entry == tonumber(ARGV[3]) and string.sub(entry, 1, #ARGV[2]) == ARGV[2] then
    return entry
  end
end

-- Remove the entry. A full server never refuses this.
local function remove(entry)
  local from_head = tonumber(ARGV[1]) < redis.call('LLEN', KEYS[1]) / 2
  redis.call('LREM', KEYS[1], from_head and 1 or -1, entry)
end

