-- For the scripts that remove an entry of the dead-letter list.
-- KEYS dead
-- ARGV index, head, length: of the entry

-- The entry, or nil if another one is at the index.
local function find_entry()
  local entry = redis.call('LINDEX', dead, index)
  if entry and #entry == tonumber(length) and string.sub(entry, 1, #head) == head then
    return entry
  end
end

-- Remove the entry. A full server never refuses this.
local function remove(entry)
  local from_head = tonumber(index) < redis.call('LLEN', dead) / 2
  redis.call('LREM', dead, from_head and 1 or -1, entry)
end
