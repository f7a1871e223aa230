-- Replace a payload that is too large by an entry of the dead-letter list.
-- KEYS[1]  list that has the payload
-- KEYS[2]  dead-letter list
-- ARGV[1]  its length
-- ARGV[2]  its sha1
-- ARGV[3]  entry of the dead-letter list
-- ARGV[4]  '1' if it can be anywhere in the list, '0' if only at its head
-- Returns 1, or 0 if it is no longer there.
local last = ARGV[4] == '1' and redis.call('LLEN', KEYS[1]) - 1 or 0
for i = 0, last do
  local payload = redis.call('LINDEX', KEYS[1], i)
  if payload and #payload == tonumber(ARGV[1]) and redis.sha1hex(payload) == ARGV[2] then
    redis.call('LLEN', KEYS[2])  -- fails before any write if it is not a list
    redis.call('LREM', KEYS[1], 1, payload)
    redis.call('RPUSH', KEYS[2], ARGV[3])
    return 1
  end
end
return 0
