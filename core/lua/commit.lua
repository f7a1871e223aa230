-- Commit a finished job: publish its result and leave its inputs to be unlinked.
-- KEYS[1]  processing list of the worker and kind
-- KEYS[2]  result hash of the request
-- KEYS[3]  segments of the namespace
-- KEYS[4]  attempts
-- KEYS[5]  cleanup list of the worker
-- ARGV[1]  '1' if the payload must still be in the processing list (at-least-once delivery)
-- ARGV[2]  payload
-- ARGV[3]  sha1 of the payload
-- ARGV[4]  name of the result segment
-- ARGV[5]  request id
-- ARGV[6]  when an unread result expires, in unix seconds
-- ARGV[7…] fields and values of the hash
-- Returns {'committed', name of the segment that this result replaces or ''},
-- {'landed', ''} if an earlier call with the same segment had its effect and lost its reply,
-- {'landed', the segment} if that result was replaced and removed meanwhile, or
-- {'lost', ''} if the payload is no longer this worker's, or others have removed the segment: the
-- worker was presumed dead, and may have been given the same payload again since.
--
-- A full server checks the first write of a script only. That is one which it refuses (HSET), so
-- that either nothing is changed or everything.
local fenced, payload, sha1, segment, request, expiry =
  ARGV[1] == '1', ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local member = segment .. ' ' .. request

local score = redis.call('ZSCORE', KEYS[3], member)
if score and tonumber(score) >= 0 then
  return {'landed', ''}
elseif score then
  -- Only a commit leaves inputs to be unlinked: as long as this worker lives it has to do it.
  local landed = redis.call('LPOS', KEYS[5], payload)
  return {landed and 'landed' or 'lost', landed and segment or ''}
end
if fenced and not redis.call('LPOS', KEYS[1], payload) then
  return {'lost', ''}
end

local replaced = ''
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'hash' and kind ~= 'none' then
  redis.call('DEL', KEYS[2])
elseif kind == 'hash' then
  local info = redis.call('HGET', KEYS[2], 'inpaint_shm_info')
  local readable, old = pcall(cjson.decode, info or '')
  if readable and type(old) == 'table' and type(old.shm_name) == 'string' then
    replaced = old.shm_name
  end
end

local fields, fresh = {}, {}
for i = 7, #ARGV, 2 do
  fields[#fields + 1], fields[#fields + 2] = ARGV[i], ARGV[i + 1]
  fresh[ARGV[i]] = true
end
redis.call('HSET', KEYS[2], unpack(fields))
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not fresh[field] then
    redis.call('HDEL', KEYS[2], field)
  end
end
redis.call('PERSIST', KEYS[2])

-- Only a segment that this namespace wrote for the same request is ours to remove. Score 0 has
-- it removed even if this worker dies before it can.
local old_member = replaced .. ' ' .. request
if replaced ~= '' and redis.call('ZSCORE', KEYS[3], old_member) then
  redis.call('ZADD', KEYS[3], 0, old_member)
else
  replaced = ''
end
redis.call('ZADD', KEYS[3], expiry, member)
redis.call('RPUSH', KEYS[5], payload)
redis.call('HDEL', KEYS[4], sha1)
if fenced then
  redis.call('LREM', KEYS[1], 1, payload)
end
return {'committed', replaced}
