-- Replace a payload that is too large by an entry of the dead-letter list, and publish the failure.
-- KEYS[1]  list that has the payload
-- KEYS[2]  dead-letter list
-- KEYS[3]  result hash of the request (absent if the request is not known)
-- KEYS[4]  result queue (absent if there is none)
-- ARGV[1]  length of the payload
-- ARGV[2]  its sha1
-- ARGV[3]  entry of the dead-letter list
-- ARGV[4]  '1' if it can be anywhere in the list, '0' if only at its head, '' if it is in no list any
--          more (at-most-once delivery)
-- ARGV[5]  '1' if this repeats a call whose reply was lost
-- ARGV[6]  milliseconds that the result hash lives
-- ARGV[7] to ARGV[9]: the outcome for the result queue (see outcomes.lua)
-- ARGV[10…] fields and values of the hash
-- Returns what push_outcome returns, or nil if the payload was no longer there.
redis.call('LLEN', KEYS[2])  -- fails before any write if the dead-letter list is of another type

local function take_out()
  if ARGV[4] == '' then
    return ARGV[5] ~= '1' or not redis.call('LPOS', KEYS[2], ARGV[3])
  end
  local last = ARGV[4] == '1' and redis.call('LLEN', KEYS[1]) - 1 or 0
  for i = 0, last do
    local payload = redis.call('LINDEX', KEYS[1], i)
    if payload and #payload == tonumber(ARGV[1]) and redis.sha1hex(payload) == ARGV[2] then
      redis.call('LREM', KEYS[1], 1, payload)
      return true
    end
  end
  return false
end

if not take_out() then
  return false
end
redis.call('RPUSH', KEYS[2], ARGV[3])
return publish_failure(KEYS[3], KEYS[4], ARGV[6], 7)
