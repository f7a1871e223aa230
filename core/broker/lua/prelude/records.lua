-- Prepended to the scripts that record claims or submissions.

-- Record the time of a submission among those of its request, unless it is there. `place` orders
-- the submissions of one call, `mark` is 'u' if the time of the claim is unknown, else ''. Returns
-- the mark that the submission has (see ownership.lua).
local function enter_submission(submissions, request, sha1, time, place, mark)
  if request == '' then
    return ''
  end
  local known = redis.call('HGET', submissions, request) or ''
  local since, known_mark = string.match(known, sha1 .. ':(%d+)(%l?)')
  if since then
    return known_mark
  end
  local entry = string.format('%s:%s%06d%03d%s', sha1, time[1], time[2], place % 1000, mark)
  redis.call('HSET', submissions, request, known == '' and entry or known .. ' ' .. entry)
  return mark
end

-- Record a claim as worked on, and its submission among those of its request. `keys` are claims,
-- attempts and submissions; `place` orders the claims of one call. Returns the attempts so far, and
-- '1' if a newer submission of the request has been committed, else ''.
local function enter(keys, number, sha1, request, time, place)
  redis.call('HSET', keys[1], number, sha1, number .. ':work', sha1)
  local attempts = redis.call('HGET', keys[2], sha1) or '0'
  local mark = enter_submission(keys[3], request, sha1, time, place, '')
  return attempts, mark == 's' and '1' or ''
end

