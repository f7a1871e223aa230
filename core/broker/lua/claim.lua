-- Claim up to `count` payloads: move them from the head of a queue to a worker's processing list
-- and record them. A payload with an attempt behind it is claimed alone, so that no other job is
-- lost if it kills this worker too.
-- USES records
-- KEYS queue, processing, workers, crews
-- KEYS other_queue, other_processing: those of the other kind
-- ARGV count, worker
-- ARGV joined: sha1 of the payload whose batch these will join, or ''
-- ARGV longest: largest allowed payload in bytes
-- ARGV keeps_payload: '1' to move them to the processing list, '0' to take them out of Redis
-- ARGV new_epoch: epoch of the server, if it has none yet
-- ARGV first_number: number of the first claim
-- ARGV other_count: count for the other queue, which is used if the first one is empty; '0' to leave
--   it alone
-- Returns the server's time: seconds and microseconds; its epoch; the payloads, in the queue's order;
-- the attempts of each so far; for each '1' if a newer submission of its request has been committed,
-- else ''; and 1 if the other queue was used, else 0. If the next payload is too large, also its
-- length, sha1 and first KiB; it stays in the queue.
local joins = joined ~= ''
if joins and redis.call('HEXISTS', attempts, joined) == 1 then
  return {redis.call('TIME'), '', {}, {}, {}, 0}
end
local other = 0
if other_count ~= '0' and redis.call('LLEN', queue) == 0 then
  local length = redis.pcall('LLEN', other_queue)  -- an error if the key is not a list
  if type(length) == 'number' and length > 0 then
    queue, processing, count, other = other_queue, other_processing, other_count, 1
  end
end
local taken, failed, superseded, large = {}, {}, {}, nil
local now = redis.call('TIME')
for i = 1, tonumber(count) do
  local payload = redis.call('LINDEX', queue, 0)
  if not payload then
    break
  end
  local sha1 = redis.sha1hex(payload)
  if #payload > tonumber(longest) then
    large = {#payload, sha1, string.sub(payload, 1, 1024)}
    break
  end
  local alone = redis.call('HEXISTS', attempts, sha1) == 1
  if alone and (joins or i > 1) then
    break
  end
  if keeps_payload == '1' then
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
  failed[i], superseded[i] =
    enter(first_number + i - 1, sha1, request, now, i)
  if alone then
    break
  end
end
local epoch = ''
if #taken > 0 then
  redis.call('SADD', workers, worker)
  redis.call('HSETNX', crews, 'epoch', new_epoch)
  epoch = redis.call('HGET', crews, 'epoch')
end
if large then
  return {now, epoch, taken, failed, superseded, other, unpack(large)}
end
return {now, epoch, taken, failed, superseded, other}
