-- What is revoked, and what changed since somebody looked.
--
-- KEYS[1]  ends     members by the second since the epoch at which they are forgotten; inf where they are not
-- KEYS[2]  changes  the same members by the number of their latest change
-- KEYS[3]  last     the number of the latest change
--          A member is '+' and a handle that is revoked, or '-' and one that was, and is no more.
-- ARGV     'changes' POSITION PAGE     Returns the position that was read from, then of each change since, PAGE at most and in
--                                      order: member, number, end.
--          'revoke' HANDLE END ...     Adds, or prolongs; an end is never brought forward.
--          'restore' HANDLE ...        Returns how many of them are known, as revoked or as restored already.
--
-- Numbers of changes are microseconds of the server's clock, each greater than the one before, so that they go on rising when
-- the data is lost, or after a failover to a replica that lacks the latest: a reader that is further than the latest
-- change reads everything again. Running it twice has the same outcome as once, but for the numbers.

local ENDS, CHANGES, LAST = KEYS[1], KEYS[2], KEYS[3]
local OVER = 1000 -- members forgotten at a time: 1 ms
local RESTORED = 7 * 86400 -- seconds; a process that could not ask for longer goes on refusing what was restored meanwhile

local clock = redis.call('TIME')
local now = tonumber(clock[1])
local last = tonumber(redis.call('GET', LAST) or 0)

local function forget(members)
  redis.call('ZREM', ENDS, unpack(members))
  redis.call('ZREM', CHANGES, unpack(members))
end

local function put(member, ends)
  last = math.max(last + 1, now * 1000000 + tonumber(clock[2]))
  local number = string.format('%.0f', last) -- Lua itself would write 14 digits
  redis.call('ZADD', ENDS, 'GT', ends, member)
  redis.call('ZADD', CHANGES, number, member)
  redis.call('SET', LAST, number)
end

local operations = {}

function operations.changes(position, page)
  local from = position
  if tonumber(position) > last then
    from = '0'
  end
  local found = redis.call('ZRANGEBYSCORE', CHANGES, '(' .. from, '+inf', 'WITHSCORES', 'LIMIT', 0, page)
  local members, reply = {}, { from }
  for i = 1, #found, 2 do
    members[#members + 1] = found[i]
  end
  local ends = #members > 0 and redis.call('ZMSCORE', ENDS, unpack(members)) or {}
  for i, member in ipairs(members) do
    reply[#reply + 1] = member
    reply[#reply + 1] = found[2 * i]
    reply[#reply + 1] = ends[i]
  end
  return reply
end

function operations.revoke(...)
  for i = 1, select('#', ...), 2 do
    local handle, ends = select(i, ...)
    forget({ '-' .. handle })
    put('+' .. handle, ends)
  end
end

function operations.restore(...)
  local known = 0
  for _, handle in ipairs({ ... }) do
    local ends = redis.call('ZSCORE', ENDS, '+' .. handle)
    if ends then
      forget({ '+' .. handle })
      put('-' .. handle, math.min(tonumber(ends), now + RESTORED))
    end
    if ends or redis.call('ZSCORE', ENDS, '-' .. handle) then
      known = known + 1
    end
  end
  return known
end

local over = redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, OVER)
if #over > 0 then
  forget(over)
end
return operations[ARGV[1]](unpack(ARGV, 2))
