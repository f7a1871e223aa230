-- For the scripts that record submissions.
-- KEYS submissions

-- Record the time of a submission among those of its request, unless it is there. `position` orders
-- the submissions of one call, `mark` is 'u' if the time of the claim is unknown, else ''. Returns
-- the mark that the submission has (see ownership.lua).
local function enter_submission(request, sha1, time, position, mark)
  if request == '' then
    return ''
  end
  local known = redis.call('HGET', submissions, request) or ''
  local since, known_mark = string.match(known, sha1 .. ':(%d+)(%l?)')
  if since then
    return known_mark
  end
  local entry = string.format('%s:%s%06d%03d%s', sha1, time[1], time[2], position % 1000, mark)
  redis.call('HSET', submissions, request, known == '' and entry or known .. ' ' .. entry)
  return mark
end
