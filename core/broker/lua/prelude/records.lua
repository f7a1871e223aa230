-- For the scripts that record claims.
-- USES submissions
-- KEYS claims, attempts

-- Record a claim as worked on, and its submission among those of its request. `position` orders the
-- claims of one call. Returns the attempts so far, and '1' if a newer submission of the request has
-- been committed, else ''.
local function enter(number, sha1, request, time, position)
  redis.call('HSET', claims, number, sha1, number .. ':work', sha1)
  local failed = redis.call('HGET', attempts, sha1) or '0'
  local mark = enter_submission(request, sha1, time, position, '')
  return failed, mark == 's' and '1' or ''
end
