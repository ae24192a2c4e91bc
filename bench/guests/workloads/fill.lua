-- Fills the database: sessions as strings, users as hashes, and rankings as sorted sets.
-- Lua's numbers are the same in every run: Redis seeds them with a constant.
-- No field of a hash has more than 64 bytes: the order of large hashes' fields differs from run to
-- run.
local function text(length)
  local parts = {}
  for index = 1, length / 8 do
    parts[index] = string.format('%08x', math.random(0, 0x3fffffff))
  end
  return table.concat(parts)
end

for session = 0, 49999 do
  redis.call('SET', 'session:' .. session, text(600))
end
for user = 0, 19999 do
  redis.call('HSET', 'user:' .. user, 'name', 'user ' .. user, 'mail', text(24), 'visits',
             math.random(1, 1000), 'address', text(56), 'group', math.random(0, 99))
end
for ranking = 0, 49 do
  for place = 1, 600 do
    redis.call('ZADD', 'ranking:' .. ranking, math.random(1, 100000),
               'user:' .. math.random(0, 19999))
  end
end
return redis.call('DBSIZE')
