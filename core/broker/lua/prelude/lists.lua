-- Put before the scripts that put jobs into a queue.

-- Whether a key can be used as a list: another program may use that of a queue.
local function is_list(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'list' or kind == 'none'
end

