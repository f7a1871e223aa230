-- Commit a finished job: publish its result and put its inputs on the cleanup list.
-- USES superseding, outcomes
-- KEYS result
-- ARGV namespace
-- ARGV segment: name of the result segment
-- ARGV result_s: seconds after which an unread result expires
-- ARGV fields*: fields and values of the result hash
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
local member = segment .. ' ' .. request

local score = redis.call('ZSCORE', segments, member)
if score and tonumber(score) >= 0 then
  return {'landed', ''}
elseif score then
  -- Only a commit puts inputs on the cleanup list, and only this worker removes them while it
  -- lives.
  local landed = redis.call('LPOS', cleanup, payload)
  return {landed and 'landed' or 'lost', landed and segment or ''}
end
if ownership(true) ~= 'mine' then
  return {'lost', ''}
end
local entries = read_submissions()
redis.call('HEXISTS', attempts, sha1)
redis.call('LLEN', cleanup)
if is_superseded(entries) then
  supersede(entries)
  redis.call('ZADD', segments, 0, member)  -- removed even if this worker dies first
  return {'superseded', ''}
end

-- When the result expires, by the clock of the namespace (see tick.lua).
local now = tonumber(redis.call('TIME')[1])
local clock = redis.call('HGET', crews, namespace .. ' clock')
local age, at = string.match(clock or '', '^(%d+) (%d+)$')
if age then
  now = tonumber(age) + math.max(0, math.min(60, now - tonumber(at)))
end

local replaced = ''
local kind = redis.call('TYPE', result).ok
if kind ~= 'hash' and kind ~= 'none' then
  redis.call('DEL', result)
elseif kind == 'hash' then
  local info = redis.call('HGET', result, 'inpaint_shm_info')
  local readable, old = pcall(cjson.decode, info or '')
  if readable and type(old) == 'table' and type(old.shm_name) == 'string' then
    replaced = old.shm_name
  end
end

local fresh = {}
for i = 1, #fields, 2 do
  fresh[fields[i]] = true
end
redis.call('HSET', result, unpack(fields))
for _, field in ipairs(redis.call('HKEYS', result)) do
  if not fresh[field] then
    redis.call('HDEL', result, field)
  end
end
redis.call('PERSIST', result)
local dropped = push_outcome()

-- Only a segment that a worker wrote for the same request may be removed. Score 0 ensures it is
-- removed even if this worker dies first; on another host, by a worker there.
local old_member = replaced .. ' ' .. request
if replaced ~= '' and redis.call('ZSCORE', segments, old_member) then
  redis.call('ZADD', segments, 0, old_member)
elseif replaced ~= '' then
  replaced = ''
  for _, crew in ipairs(redis.call('HKEYS', crews)) do
    local elsewhere = 'inpainting:segments:' .. string.match(crew, '^%S*')
    if redis.call('ZSCORE', elsewhere, old_member) then
      redis.call('ZADD', elsewhere, 0, old_member)
    end
  end
end
redis.call('ZADD', segments, math.max(1, math.floor(now + tonumber(result_s))), member)
redis.call('RPUSH', cleanup, payload)
redis.call('HDEL', attempts, sha1)
redis.call('HDEL', crews, namespace .. ' fault')
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
