-- Drop the records of fetched results: their hash is gone or names another segment.
-- USES late_results
-- KEYS segments
-- ARGV cursor
-- ARGV count: approximate number of records to examine
-- ARGV result_prefix: prefix of the keys of result hashes
-- Returns the next cursor, '0' at the end.
--
-- A record with an integer score stays: the worker that committed it may not know this yet, and
-- recognises its own success by the record.
local reply = redis.call('ZSCAN', segments, cursor, 'COUNT', count)
local records = reply[2]
for i = 1, #records, 2 do
  local member, score = records[i], tonumber(records[i + 1])
  if score > 0 and score % 1 ~= 0 then
    local segment, request = string.match(member, '^(%S+) (.*)$')
    local key = result_prefix .. request
    local info = redis.call('TYPE', key).ok == 'hash' and redis.call('HGET', key, 'inpaint_shm_info')
    local is_there = info and string.find(info, segment, 1, true)
    if not is_there and not searched_until(segment, member) then
      redis.call('ZREM', segments, member)
    end
  end
end
return reply[1]
