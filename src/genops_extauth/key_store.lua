-- Records of API keys. KEYS[1]: a hash of records (JSON) by id. KEYS[2]: a hash of when keys were last used, in seconds
-- since the epoch, by id. ARGV[1] is what to do. Done twice, each of it has the outcome of once.
local records, used = KEYS[1], KEYS[2]
local todo = ARGV[1]

if todo == 'get' then
  return redis.call('HGET', records, ARGV[2])
end

if todo == 'put' then -- id, version, record: only in the place of the version before; 1 where it is there now
  local held = redis.call('HGET', records, ARGV[2])
  if held == ARGV[4] then
    return 1
  end
  local version = held and cjson.decode(held).version or 0
  if version ~= tonumber(ARGV[3]) - 1 then
    return 0
  end
  redis.call('HSET', records, ARGV[2], ARGV[4])
  return 1
end

if todo == 'list' then -- cursor: the next cursor, 0 at the end, and ids and records in turn
  return redis.call('HSCAN', records, ARGV[2], 'COUNT', 200)
end

if todo == 'note' then -- ids and times in turn: the latest time stays
  for at = 2, #ARGV, 2 do
    local known = tonumber(redis.call('HGET', used, ARGV[at]) or 0)
    if tonumber(ARGV[at + 1]) > known then
      redis.call('HSET', used, ARGV[at], ARGV[at + 1])
    end
  end
  return 1
end

if todo == 'used' then -- ids: the times
  return redis.call('HMGET', used, unpack(ARGV, 2))
end

return redis.error_reply('key_store.lua: nothing to do')
