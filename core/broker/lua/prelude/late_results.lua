-- For the scripts that drop records of results.
-- KEYS segments

-- The time, in unix seconds, until which results that a dead worker wrote for a lost job are
-- searched for; nil if they are not. Until then a record stays even if its result was fetched: it
-- tells a committed result from one that is to be unlinked (see core/keys.py). `record` is the
-- member of the segments, `name` its segment.
local function searched_until(name, record)
  local start = string.match(name, '^.*%-')
  local mark = start and redis.call('ZSCORE', segments, start .. string.sub(record, #name + 1))
  return mark and tonumber(mark) < 0 and -tonumber(mark) or nil
end
