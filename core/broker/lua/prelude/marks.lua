-- Put before the scripts that drop entries of results.

-- Until when results are searched for that a dead worker wrote for a job which it had lost, in unix
-- seconds; nil if they are not (see keys.py). They are told from a committed result by its entry:
-- while they are searched for, the entry of a result stays, fetched or not.
local function searched_until(segments, segment, member)
  local start = string.match(segment, '^.*%-')
  local mark = start and redis.call('ZSCORE', segments, start .. string.sub(member, #segment + 1))
  return mark and tonumber(mark) < 0 and -tonumber(mark) or nil
end

