-- Read a part of a list of payloads, bounded in bytes.
-- KEYS list
-- ARGV first: index of the first payload
-- ARGV most_bytes: bytes after which no further payload is read
-- ARGV longest: largest allowed payload in bytes
-- Returns for each payload its length, its sha1, and the payload, or its first KiB if it is too
-- large.
local payloads, bytes, i = {}, 0, tonumber(first)
while bytes < tonumber(most_bytes) do
  local payload = redis.call('LINDEX', list, i)
  if not payload then
    break
  end
  local length = #payload
  local head = length > tonumber(longest) and string.sub(payload, 1, 1024) or payload
  payloads[#payloads + 1] = {length, redis.sha1hex(payload), head}
  bytes = bytes + length
  i = i + 1
end
return payloads
