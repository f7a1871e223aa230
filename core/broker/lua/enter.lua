-- Record claims that their worker made without a script (BLPOP), or whose reply was lost.
-- KEYS[1]  workers of the namespace: a reaper finds the claims of the workers in this set
-- KEYS[2]  claims of the worker
-- KEYS[3]  attempts
-- KEYS[4]  submissions
-- KEYS[5]  crews
-- KEYS[6]  processing list of the worker, long
-- KEYS[7]  the same, short
-- ARGV[1]  worker
-- ARGV[2]  epoch of the server, if it has none yet
-- ARGV[3…] for each claim its number, its payload, its request id or '', and the index in KEYS of
--          the list that must have the payload, or '' with at-most-once delivery
-- Returns the server's time: seconds and microseconds; its epoch; for each claim the attempts of its payload so far, or '' if it was
-- taken from the worker meanwhile and is not recorded; and for each '1' if a newer submission of
-- its request has been committed, else ''.
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('HSETNX', KEYS[5], 'epoch', ARGV[2])
local now = redis.call('TIME')
local attempts, superseded = {}, {}
for i = 3, #ARGV, 4 do
  local number, payload, request, place = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local count, late = '', ''
  if place == '' or redis.call('LPOS', KEYS[tonumber(place)], payload) then
    count, late =
      enter({KEYS[2], KEYS[3], KEYS[4]}, number, redis.sha1hex(payload), request, now, i / 4)
  end
  attempts[#attempts + 1], superseded[#superseded + 1] = count, late
end
return {now, redis.call('HGET', KEYS[5], 'epoch'), attempts, superseded}
