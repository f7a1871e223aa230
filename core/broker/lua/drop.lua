-- Remove an entry from the dead-letter list. A full server does not refuse this.
-- USES entries
-- Returns 1, or -1 if another entry is at the index.
local entry = find_entry()
if not entry then
  return -1
end
remove(entry)
return 1
