-- Token buckets in one call: the same operations in the same order as bucket.py, which says the rules and why doubles are exact.
--
-- KEYS     the distinct buckets of the batch
-- ARGV[1]  big-endian numbers without padding:
--            for each key:     capacity, refill, tick    double double double   (parts, parts per tick, microseconds)
--            for each group:   operation, number of hits  byte uint16            (1 acquire, 2 peek)
--              for each hit:   index of its key, cost     uint16 double          (from 1; parts)
-- Returns  for each hit, in order, the level that it found (double, parts). All else follows from that.
--
-- A value is three big-endian doubles: level, capacity (parts), updated (microseconds). It lives until the bucket would be
-- full again, debt included. A value that is none of ours counts as missing, which is full, as a lost key is: an error would
-- fail every request that shares a batch with it, again and again; this heals with the next hit.

local ACQUIRE, PEEK = 1, 2
local EXACT = 2 ^ 53
local SLACK = 1000 -- milliseconds; covers rounding to whole ticks and milliseconds
local pack, unpack_numbers, floor, ceil = struct.pack, struct.unpack, math.floor, math.ceil

local clock = redis.call('TIME') -- the only clock
local now = clock[1] * 1000000 + clock[2]

local packed, at = ARGV[1], 1
local values = #KEYS > 0 and redis.call('MGET', unpack(KEYS)) or {}
local capacities, refills, ticks, times = {}, {}, {}, {}
local loaded, levels = {}, {}
local ahead, stale = {}, {} -- stored later than now: the clock stepped back

for i = 1, #KEYS do
  local capacity, refill, tick
  capacity, refill, tick, at = unpack_numbers('>ddd', packed, at)
  local level, value, time = capacity, values[i], floor(now / tick)
  if value and #value == 24 then
    local held, size, updated = unpack_numbers('>ddd', value)
    -- Not a number fails every comparison; more than fits is cut off below.
    if size > 0 and size - held <= EXACT and updated >= 0 then
      if size ~= capacity then
        held = floor(held / size * capacity)
      end
      local elapsed = time - floor(updated / tick)
      ahead[i] = elapsed < 0
      elapsed = elapsed < 0 and 0 or elapsed
      if elapsed * refill < capacity - held then
        level = held + elapsed * refill
      end
    end
  end
  capacities[i], refills[i], ticks[i], times[i] = capacity, refill, tick, time
  loaded[i], levels[i] = level, level
end

local found, n = {}, 0
while at <= #packed do
  local operation, count
  operation, count, at = unpack_numbers('>BI2', packed, at)
  local granted, took, costs = true, {}, {}
  for hit = 1, count do
    local key, cost
    key, cost, at = unpack_numbers('>I2d', packed, at)
    local level = levels[key]
    n = n + 1
    found[n] = pack('>d', level)
    if cost <= level then
      levels[key] = level - cost
      took[#took + 1], costs[#costs + 1] = key, cost
    else
      granted = false
    end
    if operation == ACQUIRE and ahead[key] then
      stale[key] = true
    end
  end
  if operation == PEEK or not granted then
    for i = 1, #took do
      levels[took[i]] = levels[took[i]] + costs[i]
    end
  end
end

for i = 1, #KEYS do
  local level, capacity, tick = levels[i], capacities[i], ticks[i]
  if level < capacity and (level ~= loaded[i] or stale[i]) then
    local ttl = ceil(ceil((capacity - level) / refills[i]) * tick / 1000) + SLACK
    redis.call('SET', KEYS[i], pack('>ddd', level, capacity, times[i] * tick), 'PX', ttl < EXACT and ttl or EXACT)
  end
end
return table.concat(found)
