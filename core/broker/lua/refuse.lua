-- Replace a payload that is too large by an entry of the dead-letter list, and publish the failure.
-- USES failures
-- KEYS place: list that has the payload
-- KEYS dead
-- ARGV length, sha1: of the payload
-- ARGV dead_entry: entry of the dead-letter list
-- ARGV where: '1' if the payload can be anywhere in the list, '0' if only at its head, '' if it is in
--   no list any more (at-most-once delivery)
-- Returns what push_outcome returns, or nil if the payload was no longer there.
redis.call('LLEN', dead)  -- fails before any write if the dead-letter list is of another type

local function take_out()
  if where == '' then
    return not redis.call('LPOS', dead, dead_entry)  -- else this repeats a call
  end
  local last = where == '1' and redis.call('LLEN', place) - 1 or 0
  for i = 0, last do
    local payload = redis.call('LINDEX', place, i)
    if payload and #payload == tonumber(length) and redis.sha1hex(payload) == sha1 then
      redis.call('LREM', place, 1, payload)
      return true
    end
  end
  return false
end

if not take_out() then
  return false
end
redis.call('RPUSH', dead, dead_entry)
return publish_failure()
