-- Read a part of a list of payloads, bounded in bytes.
-- KEYS[1]  list
-- ARGV[1]  index of the first payload
-- ARGV[2]  bytes after which no further payload is read
-- ARGV[3]  largest allowed payload in bytes
-- Returns for each payload its length, its sha1, and the payload, or its first KiB if it is too
-- large.
local payloads, bytes, i = {}, 0, tonumber(ARGV[1])
while bytes < tonumber(ARGV[2]) do
  local payload = redis.call('LINDEX', KEYS[1], i)
  if not payload then
    break
  end
  local length = #payload
  local head = length > tonumber(ARGV[3]) and string.sub(payload, 1, 1024) or payload
  payloads[#payloads + 1] = {length, redis.sha1hex(payload), head}
  bytes = bytes + length
  i = i + 1
end
return payloads
