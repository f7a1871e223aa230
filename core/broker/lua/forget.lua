-- Remove a dead worker from the set of workers once nothing is left of it.
-- KEYS workers, heartbeat, claims
-- KEYS lists*: its lists
-- ARGV worker
-- Returns 1 if it was removed.
for _, key in ipairs({heartbeat, unpack(lists)}) do
  if redis.call('EXISTS', key) == 1 then
    return 0
  end
end
redis.call('DEL', claims)
return redis.call('SREM', workers, worker)
