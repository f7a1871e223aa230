-- Commit a finished job: publish its result and put its inputs on the cleanup list.
-- KEYS[10] result hash of the request
-- KEYS[11] cleanup list of the worker
-- KEYS[12] result queue (absent if there is none)
-- ARGV[9]  name of the result segment
-- ARGV[10] seconds after which an unread result expires
-- ARGV[11] namespace
-- ARGV[12] to ARGV[14]: the outcome for the result queue (see outcomes.lua)
-- ARGV[15…] fields and values of the hash
-- Returns
--   {'committed', name of the segment that this result replaces or '', what push_outcome returns};
--   {'landed', ''} if an earlier call with the same segment took effect and lost its reply;
--   {'landed', the segment} if that result was replaced and removed meanwhile;
--   {'superseded', ''} if the result of a newer submission of the request has been committed: this
--   one is not published, and the job is finished;
--   {'lost', ''} if the payload is no longer this worker's, or others have removed the segment. The
--   worker was presumed dead, and may have claimed the same payload again since.
--
-- All or nothing: a full server checks a script's first write only, and refuses this one (HSET).
-- Commands that fail on a key of the wrong type come before it.
local segment = ARGV[9]
local member = segment .. ' ' .. request

local score = redis.call('ZSCORE', KEYS[8], member)
if score and tonumber(score) >= 0 then
  return {'landed', ''}
elseif score then
  -- Only a commit puts inputs on the cleanup list, and only this worker removes them while it
  -- lives.
  local landed = redis.call('LPOS', KEYS[11], payload)
  return {landed and 'landed' or 'lost', landed and segment or ''}
end
if ownership(true) ~= 'mine' then
  return {'lost', ''}
end
local entries = submissions()
redis.call('HEXISTS', KEYS[5], sha1)
redis.call('LLEN', KEYS[11])
if is_superseded(entries) then
  supersede(entries, KEYS[11])
  redis.call('ZADD', KEYS[8], 0, member)  -- removed even if this worker dies first
  return {'superseded', ''}
end

-- When the result expires, by the clock of the namespace (see tick.lua).
local now = tonumber(redis.call('TIME')[1])
local clock = redis.call('HGET', KEYS[7], ARGV[11] .. ' clock')
local age, at = string.match(clock or '', '^(%d+) (%d+)$')
if age then
  now = tonumber(age) + math.max(0, math.min(60, now - tonumber(at)))
end

local replaced = ''
local kind = redis.call('TYPE', KEYS[10]).ok
if kind ~= 'hash' and kind ~= 'none' then
  redis.call('DEL', KEYS[10])
elseif kind == 'hash' then
  local info = redis.call('HGET', KEYS[10], 'inpaint_shm_info')
  local readable, old = pcall(cjson.decode, info or '')
  if readable and type(old) == 'table' and type(old.shm_name) == 'string' then
    replaced = old.shm_name
  end
end

local fields, fresh = {}, {}
for i = 15, #ARGV, 2 do
  fields[#fields + 1], fields[#fields + 2] = ARGV[i], ARGV[i + 1]
  fresh[ARGV[i]] = true
end
redis.call('HSET', KEYS[10], unpack(fields))
for _, field in ipairs(redis.call('HKEYS', KEYS[10])) do
  if not fresh[field] then
    redis.call('HDEL', KEYS[10], field)
  end
end
redis.call('PERSIST', KEYS[10])
local dropped = push_outcome(KEYS[12], 12)

-- Only a segment that a worker wrote for the same request may be removed. Score 0 ensures it is
-- removed even if this worker dies first; on another host, by a worker there.
local old_member = replaced .. ' ' .. request
if replaced ~= '' and redis.call('ZSCORE', KEYS[8], old_member) then
  redis.call('ZADD', KEYS[8], 0, old_member)
elseif replaced ~= '' then
  replaced = ''
  for _, crew in ipairs(redis.call('HKEYS', KEYS[7])) do
    local elsewhere = 'inpainting:segments:' .. string.match(crew, '^%S*')
    if redis.call('ZSCORE', elsewhere, old_member) then
      redis.call('ZADD', elsewhere, 0, old_member)
    end
  end
end
redis.call('ZADD', KEYS[8], math.max(1, math.floor(now + tonumber(ARGV[10]))), member)
redis.call('RPUSH', KEYS[11], payload)
redis.call('HDEL', KEYS[5], sha1)
redis.call('HDEL', KEYS[7], ARGV[11] .. ' fault')
drop_claim()

-- Older submissions that are not done yet are superseded from now on.
local claimed_at
for _, entry in ipairs(entries) do
  claimed_at = entry[1] == sha1 and entry[3] == '' and entry[2] or claimed_at
end
for _, entry in ipairs(entries) do
  -- Compared as strings: they have more digits than a Lua number holds. With 'u', the claim was
  -- earlier than the recorded time.
  if claimed_at and entry[2] < claimed_at then
    entry[3] = 's'
  end
end
leave_submissions(entries)
return {'committed', replaced, dropped}
