-- Token buckets and windows in one call: the same operations in the same order as bucket.py, window.py and hits.py, which say
-- the rules and why doubles are exact.
--
-- KEYS     the distinct keys of the batch; and, where there is an ARGV[2], a last one for the mark of charges made
-- ARGV[1]  big-endian numbers without padding:
--            for each key:     kind, three numbers                    byte double double double
--                                1 token bucket     capacity, refill, tick         (parts, parts per tick, microseconds)
--                                2 fixed window     capacity, length, -            (tokens, microseconds)
--                                3 sliding window   capacity, length, -
--                                4 calendar window  capacity, start, finish        (microseconds since the epoch)
--            for each group:   number of hits                         uint16
--              for each hit:   index of its key, role, cost           uint16 byte double   (from 1; hits.Role, + 8: look; parts)
-- ARGV[2]  the number of these charges and refunds: where the mark says that they were made, they are left out
-- Returns  for each hit, in order, the level that it found (double, parts), in a sliding window also what was used in the
--          window before; then the time (double, microseconds). All else follows from that.
--
-- A value is big-endian doubles. Of a bucket: level, capacity (parts), updated (microseconds); it lives until the bucket would
-- be full again, debt included. Of a window: used, start; of a sliding one also what was used in the window before. A value that
-- is none of ours counts as missing, as a lost key does: an error would fail every request that shares a batch with it, again
-- and again; this heals with the next hit.

local BUCKET, FIXED, SLIDING, CALENDAR = 1, 2, 3, 4
local MUST, QUOTA, CHARGE, REFUND, LOOK = 1, 2, 4, 5, 8
local EXACT = 2 ^ 53
local SLACK = 1000 -- milliseconds; covers rounding to whole ticks and milliseconds
local MARKED = 86400000 -- milliseconds; far longer than anybody goes on sending charges again to a server that answers
local pack, unpack_numbers, floor, ceil = struct.pack, struct.unpack, math.floor, math.ceil
local min, max = math.min, math.max

local clock = redis.call('TIME') -- the only clock
local now = clock[1] * 1000000 + clock[2]

local keys, packed, at = #KEYS, ARGV[1], 1
local charging = true
if ARGV[2] then
  local made = tonumber(redis.call('GET', KEYS[keys]) or nil)
  charging = not made or made < tonumber(ARGV[2])
  if charging then
    redis.call('SET', KEYS[keys], ARGV[2], 'PX', MARKED)
  end
  keys = keys - 1
end

local values = keys > 0 and redis.call('MGET', unpack(KEYS, 1, keys)) or {}
local kinds, capacities, tops = {}, {}, {}
local refills, ticks, times = {}, {}, {} -- of buckets
local used, starts, previous, ends = {}, {}, {}, {} -- of windows; `ends`: when the value means nothing any more
local loaded, levels = {}, {}
local ahead, asked = {}, {} -- stored later than now, as the clock stepped back; hit by what takes

local function counts(number)
  return number >= -EXACT and number <= EXACT -- not a number fails both
end

for i = 1, keys do
  local kind, capacity, b, c, level
  kind, capacity, b, c, at = unpack_numbers('>Bddd', packed, at)
  local value = values[i]
  if kind == BUCKET then
    local time = floor(now / c)
    level = capacity
    if value and #value == 24 then
      local held, size, updated = unpack_numbers('>ddd', value)
      -- Not a number fails every comparison; more than fits is cut off below.
      if size > 0 and size - held <= EXACT and updated >= 0 then
        if size ~= capacity then
          held = max(floor(held / size * capacity), capacity - EXACT)
        end
        local elapsed = time - floor(updated / c)
        ahead[i] = elapsed < 0
        elapsed = elapsed < 0 and 0 or elapsed
        if elapsed * b < capacity - held then
          level = held + elapsed * b
        end
      end
    end
    refills[i], ticks[i], times[i], tops[i] = b, c, time, capacity
  else
    local count, began, before = 0, -1, 0
    if value and #value == 16 then
      count, began = unpack_numbers('>dd', value)
    elseif value and #value == 24 then
      count, began, before = unpack_numbers('>ddd', value)
    end
    if not (counts(count) and counts(began) and counts(before)) then
      count, began, before = 0, -1, 0
    end
    local start = now - now % b
    if kind == CALENDAR then
      start = (now >= c or began == c) and c or b
      ends[i] = start + 2 * (c - b)
    else
      ends[i] = start + b
    end
    if kind == SLIDING then
      if began < start then
        before, count = (began >= start - b) and count or 0, 0
      end
      tops[i] = capacity - ceil(before * ((b - now % b) / b))
      ends[i] = ends[i] + b
    else
      count = began >= start and count or 0
      tops[i] = capacity
    end
    level = tops[i] - count
    used[i], starts[i], previous[i] = count, start, before
  end
  kinds[i], capacities[i] = kind, capacity
  loaded[i], levels[i] = level, level
end

local found, n = {}, 0
while at <= #packed do
  local count
  count, at = unpack_numbers('>I2', packed, at)
  local must, quotas, exhausted, took, costs = true, 0, 0, {}, {}
  for hit = 1, count do
    local key, role, cost
    key, role, cost, at = unpack_numbers('>I2Bd', packed, at)
    local look = role >= LOOK
    role = look and role - LOOK or role
    local level = levels[key]
    n = n + 1
    found[n] = kinds[key] == SLIDING and pack('>dd', level, previous[key]) or pack('>d', level)
    asked[key] = asked[key] or not look
    if role >= CHARGE then
      if charging and not look then
        if role == CHARGE then
          levels[key] = min(level, max(level - cost, capacities[key] - EXACT))
        else
          levels[key] = max(level, min(level + cost, tops[key]))
        end
      end
    else
      local fits = cost <= level
      if role == MUST then
        must = must and fits
      elseif role == QUOTA then
        quotas = quotas + 1
        exhausted = exhausted + (fits and 0 or 1)
      end
      if fits and not look then
        levels[key] = level - cost
        took[#took + 1], costs[#costs + 1] = key, cost
      end
    end
  end
  if not must or (quotas > 0 and quotas == exhausted) then
    for i = 1, #took do
      -- What was refunded meanwhile fills a bucket at most.
      levels[took[i]] = min(levels[took[i]] + costs[i], tops[took[i]])
    end
  end
end

for i = 1, keys do
  local level, capacity = levels[i], capacities[i]
  if kinds[i] == BUCKET then
    if level >= capacity then
      if level ~= loaded[i] then
        redis.call('DEL', KEYS[i])
      end
    elseif level ~= loaded[i] or (ahead[i] and asked[i]) then
      local tick = ticks[i]
      local ttl = ceil(ceil((capacity - level) / refills[i]) * tick / 1000) + SLACK
      redis.call('SET', KEYS[i], pack('>ddd', level, capacity, times[i] * tick), 'PX', ttl < EXACT and ttl or EXACT)
    end
  elseif level ~= loaded[i] then
    local count = used[i] + loaded[i] - level
    local value = kinds[i] == SLIDING and pack('>ddd', count, starts[i], previous[i]) or pack('>dd', count, starts[i])
    redis.call('SET', KEYS[i], value, 'PX', max(0, ceil((ends[i] - now) / 1000)) + SLACK)
  end
end
found[n + 1] = pack('>d', now)
return table.concat(found)
