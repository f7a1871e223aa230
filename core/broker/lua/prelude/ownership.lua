-- Prepended to every script that ends a claim. Their first keys and arguments are the same:
-- KEYS[1]  processing list of the worker and kind
-- KEYS[2]  claims of the worker
-- KEYS[3]  queue
-- KEYS[4]  delayed set of the queue
-- KEYS[5]  attempts
-- KEYS[6]  submissions
-- KEYS[7]  crews
-- KEYS[8]  segments of the namespace
-- KEYS[9]  workers of the namespace
-- ARGV[1]  '1' if the payload must be in the processing list (at-least-once delivery)
-- ARGV[2]  '1' if this repeats a call whose reply was lost
-- ARGV[3]  payload
-- ARGV[4]  sha1 of the payload
-- ARGV[5]  number of the claim, or '' if it was never recorded (see enter.lua)
-- ARGV[6]  epoch of the server when the claim was recorded, or ''
-- ARGV[7]  request id, or '' if the message has none
-- ARGV[8]  member of the segments that marks the payload as taken from this worker, or ''
local payload, sha1, number, request = ARGV[3], ARGV[4], ARGV[5], ARGV[7]

-- After a loss of all data only the worker itself knows of a claim. If the server has kept the
-- message in another place, it is taken from there.
local function recovered_from_loss()
  if ARGV[8] ~= '' and redis.call('ZSCORE', KEYS[8], ARGV[8]) then
    return 'lost'
  end
  local kind = string.match(KEYS[1], '[^:]+$')
  for _, worker in ipairs(redis.call('SMEMBERS', KEYS[9])) do
    if redis.call('LPOS', 'inpainting:processing:' .. worker .. ':' .. kind, payload) then
      return 'lost'
    end
  end
  if redis.call('LREM', KEYS[3], 1, payload) == 0 then
    redis.call('ZREM', KEYS[4], payload)
  end
  -- The set of workers may be lost too. This worker is added again, so that a reaper finds it.
  redis.call('SADD', KEYS[9], string.match(KEYS[2], '^inpainting:claims:(.*)$'))
  return 'mine'
end

-- 'mine' if the claim is this worker's to end, 'landed' if an earlier call has ended it, 'lost' if
-- it was taken from this worker.
-- `may_be_forgotten`: the caller knows that no earlier call has ended the claim. If its record is
-- missing all the same, the server may have restarted from an older snapshot, which keeps the epoch.
-- Then the payload is searched for, as after a loss of all data.
local function ownership(may_be_forgotten)
  local there = ARGV[1] == '0' or redis.call('LPOS', KEYS[1], payload)
  if number == '' or redis.call('HEXISTS', KEYS[2], number) == 1 then
    return there and 'mine' or 'lost'
  end
  if redis.call('HGET', KEYS[7], 'epoch') == ARGV[6] and not may_be_forgotten then
    return ARGV[2] == '1' and 'landed' or 'lost'
  end
  return recovered_from_loss()
end

-- Neither command needs memory, so a full server refuses nothing after them.
local function drop_claim()
  redis.call('HDEL', KEYS[2], number, number .. ':work')
  if ARGV[1] == '1' then
    redis.call('LREM', KEYS[1], 1, payload)
  end
end

-- The claimed and unfinished submissions of the request: {sha1, time of the claim, mark}. The mark
-- is 's' if a newer one has been committed, 'u' if the time of the claim is unknown, or ''.
local function submissions()
  local entries = {}
  local value = request ~= '' and redis.call('HGET', KEYS[6], request)
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
    redis.call('HSET', KEYS[6], request, table.concat(remaining, ' '))
  elseif #entries > 0 then
    redis.call('HDEL', KEYS[6], request)
  end
end

-- Put the payload into the delayed set. A second copy of the same message gets a suffix: a zero
-- byte, which JSON never contains, and a number.
local function wait(seconds)
  local member, copy = payload, 0
  while redis.call('ZSCORE', KEYS[4], member) do
    copy = copy + 1
    member = payload .. '\0' .. copy
  end
  local now = redis.call('TIME')
  local due = now[1] + now[2] / 1000000 + seconds
  redis.call('ZADD', KEYS[4], string.format('%.3f', due), member)
end

-- Whether a newer submission of the request has been committed.
local function is_superseded(entries)
  for _, entry in ipairs(entries) do
    if entry[1] == sha1 then
      return entry[3] == 's'
    end
  end
  return false
end

-- Finish a superseded job: only its inputs are left, to be unlinked.
local function supersede(entries, cleanup)
  drop_claim()
  redis.call('RPUSH', cleanup, payload)
  redis.call('HDEL', KEYS[5], sha1)
  leave_submissions(entries)
end

-- The submissions of the request, if the job is this worker's to end without a result. Otherwise nil
-- and the reply of the script; a superseded job is finished here. Commands that fail on a key of the
-- wrong type come before any write.
local function to_be_failed(cleanup)
  local owner = ownership()
  if owner ~= 'mine' then
    return nil, owner
  end
  redis.call('HEXISTS', KEYS[5], sha1)
  redis.call('LLEN', cleanup)
  local entries = submissions()
  if is_superseded(entries) then
    supersede(entries, cleanup)
    return nil, 'superseded'
  end
  return entries
end
