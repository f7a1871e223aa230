-- For the scripts that put jobs into a queue.

-- Whether a key can be used as a list. Another program may use a queue's key for something else.
local function is_list(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'list' or kind == 'none'
end
