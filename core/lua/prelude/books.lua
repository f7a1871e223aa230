-- Put before the scripts that claim and enter claims.

-- Enter a claim into the books: whose it is, that it is being worked on, and the place of its
-- submission among those of its request. `keys` are claims, attempts and submissions; `place` tells
-- claims of one call apart. Returns the attempts so far, and '1' if a newer submission of the request
-- has been committed, else ''.
local function enter(keys, number, sha1, request, time, place)
  redis.call('HSET', keys[1], number, sha1, number .. ':work', sha1)
  local attempts = redis.call('HGET', keys[2], sha1) or '0'
  if request == '' then
    return attempts, ''
  end
  local known = redis.call('HGET', keys[3], request) or ''
  local since, mark = string.match(known, sha1 .. ':(%d+)(%l?)')
  local entry = string.format('%s:%s%06d%03d', sha1, time[1], time[2], place % 1000)
  if not since then
    redis.call('HSET', keys[3], request, known == '' and entry or known .. ' ' .. entry)
  end
  return attempts, mark == 's' and '1' or ''
end

