-- Read a part of a list of payloads, bounded in bytes.
-- KEYS[1]  list
-- ARGV[1]  index of the first
-- ARGV[2]  bytes after which no further one is read
-- ARGV[3]  most bytes that a payload may have
-- Returns for each payload its length, its sha1 and, if it is too large, its first KiB in its place.
local found, bytes, i = {}, 0, tonumber(ARGV[1])
while bytes < tonumber(ARGV[2]) do
  local payload = redis.call('LINDEX', KEYS[1], i)
  if not payload then
    break
  end
  local length = #payload
  local head = length > tonumber(ARGV[3]) and string.sub(payload, 1, 1024) or payload
  found[#found + 1] = {length, redis.sha1hex(payload), head}
  bytes = bytes + length
  i = i + 1
end
return found
