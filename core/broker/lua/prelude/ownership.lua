-- For the scripts that end a claim.
-- KEYS processing, claims, queue, delayed, submissions, crews, segments, workers
-- ARGV keeps_payload: '1' if the payload must be in the processing list (at-least-once delivery)
-- ARGV is_repeated: '1' if this repeats a call whose reply was lost
-- ARGV given_up_at: when the worker stops waiting for the reply, in unix seconds
-- ARGV payload, sha1
-- ARGV number: number of the claim, or '' if it was never recorded (see enter.lua)
-- ARGV epoch: epoch of the server when the claim was recorded, or ''
-- ARGV request: request id, or '' if the message has none
-- ARGV taken_mark: member of the segments that marks the payload as taken from this worker, or ''

-- After a loss of all data only the worker itself knows of a claim. If the server has kept the
-- message in another place, it is taken from there.
local function recovered_from_loss()
  if taken_mark ~= '' and redis.call('ZSCORE', segments, taken_mark) then
    return 'lost'
  end
  local kind = string.match(processing, '[^:]+$')
  for _, worker in ipairs(redis.call('SMEMBERS', workers)) do
    if redis.call('LPOS', 'inpainting:processing:' .. worker .. ':' .. kind, payload) then
      return 'lost'
    end
  end
  if redis.call('LREM', queue, 1, payload) == 0 then
    redis.call('ZREM', delayed, payload)
  end
  -- The set of workers may be lost too. This worker is added again, so that a reaper finds it.
  redis.call('SADD', workers, string.match(claims, '^inpainting:claims:(.*)$'))
  return 'mine'
end

-- 'mine' if the claim is this worker's to end, 'landed' if an earlier call has ended it, 'lost' if
-- it was taken from this worker.
-- `may_be_forgotten`: the caller knows that no earlier call has ended the claim. If its record is
-- missing all the same, the server may have restarted from an older snapshot, which keeps the epoch.
-- Then the payload is searched for, as after a loss of all data. But a call that the network has held
-- back may come after its own repetition, whose traces are gone.
local function ownership(may_be_forgotten)
  local there = keeps_payload == '0' or redis.call('LPOS', processing, payload)
  if number == '' or redis.call('HEXISTS', claims, number) == 1 then
    return there and 'mine' or 'lost'
  end
  local time = redis.call('TIME')
  local is_late = time[1] + time[2] / 1000000 > tonumber(given_up_at)
  if redis.call('HGET', crews, 'epoch') == epoch and (is_late or not may_be_forgotten) then
    return is_repeated == '1' and 'landed' or 'lost'
  end
  return recovered_from_loss()
end

-- Neither command needs memory, so a full server refuses nothing after them.
local function drop_claim()
  redis.call('HDEL', claims, number, number .. ':work')
  if keeps_payload == '1' then
    redis.call('LREM', processing, 1, payload)
  end
end

-- The claimed and unfinished submissions of the request: {sha1, time of the claim, mark}. The mark
-- is 's' if a newer one has been committed, 'u' if the time of the claim is unknown, or ''.
local function read_submissions()
  local entries = {}
  local value = request ~= '' and redis.call('HGET', submissions, request)
  for sha, time, mark in string.gmatch(value or '', '(%x+):(%d+)(%l?)') do
    entries[#entries + 1] = {sha, time, mark}
  end
  return entries
end

-- Write the submissions back without this one.
local function leave_submissions(entries)
  local remaining = {}
  for _, entry in ipairs(entries) do
    if entry[1] ~= sha1 then
      remaining[#remaining + 1] = entry[1] .. ':' .. entry[2] .. entry[3]
    end
  end
  if #remaining > 0 then
    redis.call('HSET', submissions, request, table.concat(remaining, ' '))
  elseif #entries > 0 then
    redis.call('HDEL', submissions, request)
  end
end

-- Put the payload into the delayed set. A second copy of the same message gets a suffix: a zero
-- byte, which JSON never contains, and a number.
local function wait(seconds)
  local member, copy = payload, 0
  while redis.call('ZSCORE', delayed, member) do
    copy = copy + 1
    member = payload .. '\0' .. copy
  end
  local now = redis.call('TIME')
  local due = now[1] + now[2] / 1000000 + seconds
  redis.call('ZADD', delayed, string.format('%.3f', due), member)
end
