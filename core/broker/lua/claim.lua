-- Claim up to `count` payloads: move them from the head of a queue to a worker's processing list
-- and record them. A payload with an attempt behind it is claimed alone, so that no other job is
-- lost if it kills this worker too.
-- KEYS[1]  queue
-- KEYS[2]  processing list of the worker and kind
-- KEYS[3]  attempts
-- KEYS[4]  workers of the namespace
-- KEYS[5]  claims of the worker
-- KEYS[6]  submissions
-- KEYS[7]  crews
-- KEYS[8]  the other queue
-- KEYS[9]  processing list of the worker and the other kind
-- ARGV[1]  count
-- ARGV[2]  sha1 of the payload whose batch these will join, or ''
-- ARGV[3]  largest allowed payload in bytes
-- ARGV[4]  '1' to move them to the processing list, '0' to take them out of Redis
-- ARGV[5]  worker
-- ARGV[6]  epoch of the server, if it has none yet
-- ARGV[7]  number of the first claim
-- ARGV[8]  count for the other queue, which is used if the first one is empty; '0' to leave it alone
-- Returns the server's time: seconds and microseconds; its epoch; the payloads, in the queue's order;
-- the attempts of each so far; for each '1' if a newer submission of its request has been committed,
-- else ''; and 1 if the other queue was used, else 0. If the next payload is too large, also its length, sha1 and first KiB; it stays
-- in the queue.
local joins = ARGV[2] ~= ''
if joins and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 1 then
  return {redis.call('TIME'), '', {}, {}, {}, 0}
end
local queue, processing, count, other = KEYS[1], KEYS[2], tonumber(ARGV[1]), 0
if ARGV[8] ~= '0' and redis.call('LLEN', queue) == 0 then
  local length = redis.pcall('LLEN', KEYS[8])  -- an error if the key is not a list
  if type(length) == 'number' and length > 0 then
    queue, processing, count, other = KEYS[8], KEYS[9], tonumber(ARGV[8]), 1
  end
end
local taken, attempts, superseded, large = {}, {}, {}, nil
local now = redis.call('TIME')
for i = 1, count do
  local payload = redis.call('LINDEX', queue, 0)
  if not payload then
    break
  end
  local sha1 = redis.sha1hex(payload)
  if #payload > tonumber(ARGV[3]) then
    large = {#payload, sha1, string.sub(payload, 1, 1024)}
    break
  end
  local alone = redis.call('HEXISTS', KEYS[3], sha1) == 1
  if alone and (joins or i > 1) then
    break
  end
  if ARGV[4] == '1' then
    redis.call('LMOVE', queue, processing, 'LEFT', 'RIGHT')
  else
    redis.call('LPOP', queue)
  end
  local readable, message = pcall(cjson.decode, payload)
  local request = readable and type(message) == 'table' and message.request_id
  if type(request) == 'number' then  -- its text: a number here has 53 bits
    local digits = string.match(payload, '"request_id"%s*:%s*(-?%d+)%s*[,}]')
    request = tonumber(digits or '') == request and digits
  end
  request = type(request) == 'string' and #request <= 1024 and request or ''
  taken[i] = payload
  attempts[i], superseded[i] =
    enter({KEYS[5], KEYS[3], KEYS[6]}, ARGV[7] + i - 1, sha1, request, now, i)
  if alone then
    break
  end
end
local epoch = ''
if #taken > 0 then
  redis.call('SADD', KEYS[4], ARGV[5])
  redis.call('HSETNX', KEYS[7], 'epoch', ARGV[6])
  epoch = redis.call('HGET', KEYS[7], 'epoch')
end
if large then
  return {now, epoch, taken, attempts, superseded, other, unpack(large)}
end
return {now, epoch, taken, attempts, superseded, other}
