-- For the scripts that end a claim unless a newer submission of the request has been committed.
-- USES ownership
-- KEYS attempts, cleanup

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
local function supersede(entries)
  drop_claim()
  redis.call('RPUSH', cleanup, payload)
  redis.call('HDEL', attempts, sha1)
  leave_submissions(entries)
end

-- The submissions of the request, if the job is this worker's to end without a result. Otherwise nil
-- and the reply of the script; a superseded job is finished here. Commands that fail on a key of the
-- wrong type come before any write.
local function to_be_failed()
  local owner = ownership()
  if owner ~= 'mine' then
    return nil, owner
  end
  redis.call('HEXISTS', attempts, sha1)
  redis.call('LLEN', cleanup)
  local entries = read_submissions()
  if is_superseded(entries) then
    supersede(entries)
    return nil, 'superseded'
  end
  return entries
end
