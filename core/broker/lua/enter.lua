-- Record claims that their worker made without a script (BLPOP), or whose reply was lost.
-- USES records
-- KEYS workers: a reaper finds the claims of the workers in this set
-- KEYS crews
-- KEYS long, short: the worker's processing lists
-- ARGV worker
-- ARGV new_epoch: epoch of the server, if it has none yet
-- ARGV entered*: for each claim its number, its payload, its request id or '', and its kind, whose
--   processing list must have the payload, or '' with at-most-once delivery
-- Returns the server's time: seconds and microseconds; its epoch; for each claim the attempts of its
-- payload so far, or '' if it was taken from the worker meanwhile and is not recorded; and for each
-- '1' if a newer submission of its request has been committed, else ''.
redis.call('SADD', workers, worker)
redis.call('HSETNX', crews, 'epoch', new_epoch)
local now = redis.call('TIME')
local processing = {long = long, short = short}
local failed, superseded = {}, {}
for i = 1, #entered, 4 do
  local number, payload, request, kind = unpack(entered, i, i + 3)
  local count, late = '', ''
  if kind == '' or redis.call('LPOS', processing[kind], payload) then
    local sha1, position = redis.sha1hex(payload), (i + 3) / 4
    count, late = enter(number, sha1, request, now, position)
  end
  failed[#failed + 1], superseded[#superseded + 1] = count, late
end
return {now, redis.call('HGET', crews, 'epoch'), failed, superseded}
