-- Token buckets and windows in one call: the same operations in the same order as bucket.py, window.py and hits.py, which say
-- the rules and why doubles are exact.
--
-- KEYS     the distinct keys of the batch; and, where there is an ARGV[2], a last one for the mark of charges made
-- ARGV[1]  big-endian numbers without padding:
--            number of meters                                         uint16
--            for each meter: kind, three numbers                      byte double double double
--                              1 token bucket     capacity, refill, tick         (parts, parts per tick, microseconds)
--                              2 fixed window     capacity, length, -            (tokens, microseconds)
--                              3 sliding window   capacity, length, -
--                              4 calendar window  capacity, start, finish        (microseconds since the epoch)
--            for each hit:   its key, its meter, role, cost           uint16 uint16 byte double
--                              key and meter from 1, in a group one meter for a key; role: hits.Role, + 8: look, + 16: the
--                              last of its group; cost: parts
-- ARGV[2]  the number of these charges and refunds: where the mark says that they were made, they are left out
-- Returns  for each hit, in order, the level that it found (double, parts), in a sliding window also what was used in the
--          window before; then the time (double, microseconds). All else follows from that.
--
-- A value is big-endian doubles. Of a bucket: level, capacity (parts), updated (microseconds); it lives until the bucket would
-- be full again, debt included. Of a window: used, start; of a sliding one also what was used in the window before. A value that
-- is none of ours counts as missing, as a lost key does: an error would fail every request that shares a batch with it, again
-- and again; this heals with the next hit.

local BUCKET, SLIDING, CALENDAR = 1, 3, 4
local MUST, QUOTA, CHARGE, LOOK, LAST = 1, 2, 4, 8, 16
local EXACT = 2 ^ 53
local SLACK = 1000 -- milliseconds; covers rounding to whole ticks and milliseconds
local MARKED = 86400000 -- milliseconds; far longer than anybody goes on sending charges again to a server that answers
local HIT, HIT_SIZE = 'HHBd', 13
local pack, unpack_numbers, floor, ceil = struct.pack, struct.unpack, math.floor, math.ceil
local min, max = math.min, math.max

local clock = redis.call('TIME') -- the only clock
local now = clock[1] * 1000000 + clock[2]

local keys, packed = #KEYS, ARGV[1]
local charging = true
if ARGV[2] then
  local made = tonumber(redis.call('GET', KEYS[keys]) or nil)
  charging = not made or made < tonumber(ARGV[2])
  if charging then
    redis.call('SET', KEYS[keys], ARGV[2], 'PX', MARKED)
  end
  keys = keys - 1
end

-- A table is allocated anew each time it outgrows itself, so what few batches need is in tables that stay empty in most.
local values = keys > 0 and redis.call('MGET', unpack(KEYS, 1, keys)) or {}
local kinds, capacities, second, third = {}, {}, {}, {} -- of meters
local meters, loaded, levels = {}, {}, {} -- of keys, as is all below
local windows, previous = {}, {} -- what is known of a window; and what was used in the one before a sliding one
local ahead, asked = {}, {} -- stored later than now, as the clock stepped back; hit by what takes

local count, at = unpack_numbers('>H', packed)
for meter = 1, count do
  kinds[meter], capacities[meter], second[meter], third[meter], at = unpack_numbers('>Bddd', packed, at)
end

local function bucket(key, meter)
  local capacity, refill, tick = capacities[meter], second[meter], third[meter]
  local value = values[key]
  if not value or #value ~= 24 then
    return capacity
  end
  local held, size, updated = unpack_numbers('>ddd', value)
  -- Not a number fails every comparison; more than fits is cut off below.
  if not (size > 0 and size - held <= EXACT and updated >= 0) then
    return capacity
  end
  if size ~= capacity then
    held = max(floor(held / size * capacity), capacity - EXACT)
  end
  local elapsed = floor(now / tick) - floor(updated / tick)
  if elapsed < 0 then
    ahead[key], elapsed = true, 0
  end
  return elapsed * refill < capacity - held and held + elapsed * refill or capacity
end

local function counts(number)
  return number >= -EXACT and number <= EXACT -- not a number fails both
end

local function window(key, meter)
  local kind, capacity, b, c = kinds[meter], capacities[meter], second[meter], third[meter]
  local value = values[key]
  local used, began, before = 0, -1, 0
  if value and #value == 16 then
    used, began = unpack_numbers('>dd', value)
  elseif value and #value == 24 then
    used, began, before = unpack_numbers('>ddd', value)
  end
  if not (counts(used) and counts(began) and counts(before)) then
    used, began, before = 0, -1, 0
  end
  local start, length, top = now - now % b, b, capacity
  if kind == CALENDAR then
    start = (now >= c or began == c) and c or b
    length = 2 * (c - b)
  end
  if kind == SLIDING then
    if began < start then
      before, used = (began >= start - b) and used or 0, 0
    end
    top = capacity - ceil(before * ((b - now % b) / b))
    length = 2 * b
    previous[key] = before
  elseif began < start then
    used = 0
  end
  windows[key] = {used = used, start = start, ends = start + length, top = top} -- `ends`: when it means nothing any more
  return top - used
end

local function moved(key, role, cost, level)
  local capacity = capacities[meters[key]]
  if role == CHARGE then
    return min(level, max(level - cost, capacity - EXACT))
  end
  return max(level, min(level + cost, windows[key] and windows[key].top or capacity))
end

local function store(key)
  local meter, level, before = meters[key], levels[key], loaded[key]
  local capacity, one = capacities[meter], windows[key]
  if level == before and not asked[key] then
    return
  end
  local value, ttl = false, 0
  if one then
    local used = one.used + before - level
    value = previous[key] and pack('>ddd', used, one.start, previous[key]) or pack('>dd', used, one.start)
    ttl = max(0, ceil((one.ends - now) / 1000)) + SLACK
  elseif level < capacity then
    local refill, tick = second[meter], third[meter]
    value = pack('>ddd', level, capacity, floor(now / tick) * tick)
    ttl = min(ceil(ceil((capacity - level) / refill) * tick / 1000) + SLACK, EXACT)
  end
  if value then
    redis.call('SET', KEYS[key], value, 'PX', ttl)
  elseif level ~= before then
    redis.call('DEL', KEYS[key])
  end
  values[key] = value
end

local hits = {unpack_numbers('>' .. string.rep(HIT, (#packed - at + 1) / HIT_SIZE), packed, at)} -- and the end
local found, n = {}, 0
local must, quotas, exhausted = true, 0, 0
local takers, spared, took = {}, {}, 0 -- by a group: which keys it took from, and their levels had it taken nothing
for i = 1, #hits - 1, 4 do
  local key, meter, role, cost = hits[i], hits[i + 1], hits[i + 2], hits[i + 3]
  local last = role >= LAST
  role = last and role - LAST or role
  local look = role >= LOOK
  role = look and role - LOOK or role
  if meters[key] ~= meter then
    if meters[key] then -- its limit changed between two groups
      store(key)
      ahead[key], asked[key], windows[key], previous[key] = nil, nil, nil, nil
    end
    local level = kinds[meter] == BUCKET and bucket(key, meter) or window(key, meter)
    meters[key], loaded[key], levels[key] = meter, level, level
  end
  local level = levels[key]
  n = n + 1
  found[n] = level
  if previous[key] then
    n = n + 1
    found[n] = previous[key]
  end
  if ahead[key] and not look then
    asked[key] = true
  end
  if role >= CHARGE then
    if charging and not look then
      levels[key] = moved(key, role, cost, level)
      for taken = 1, took do
        if takers[taken] == key then
          spared[taken] = moved(key, role, cost, spared[taken])
        end
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
      took = took + 1
      takers[took], spared[took] = key, level
    end
  end
  if last then
    if not must or (quotas > 0 and quotas == exhausted) then
      for taken = took, 1, -1 do -- backwards, for a key that was taken from twice
        levels[takers[taken]] = spared[taken]
      end
    end
    must, quotas, exhausted, took = true, 0, 0, 0
  end
end

for key = 1, keys do
  store(key)
end
n = n + 1
found[n] = now
return pack('>' .. string.rep('d', n), unpack(found, 1, n))
