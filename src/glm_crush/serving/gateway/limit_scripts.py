"""The two scripts that count limits inside Redis: each runs alone, so that no two servers see the same last place.

Above: `redis_limits.py`. KEYS are the counters; for each of them ARGV has kind, limit, cost, and what `redis_limits.py`
says. Levels go back as text, since Redis would cut numbers to integers. The clock is Redis', so that servers need not
agree on the time.
"""

from __future__ import annotations

__all__ = ["SETTLE", "TAKE"]

# A rate: a hash of level and time. Slots: a sorted set of leases by when they end. A budget: a number.
TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local levels = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 5
  local kind, limit, cost = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local level = 0
  if kind == 'rate' then
    local was = redis.call('HMGET', key, 'level', 'time')
    if was[1] then level = math.max(0, tonumber(was[1]) - (now - tonumber(was[2])) * limit / 60) end
  elseif kind == 'slots' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    level = redis.call('ZCARD', key)
  else
    level = tonumber(redis.call('GET', key) or ARGV[a + 4])
  end
  levels[i] = tostring(level)
  if level + cost > limit then return {i, levels[i]} end
end
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 5
  local kind, limit, cost, level = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(levels[i])
  if kind == 'rate' then
    redis.call('HSET', key, 'level', tostring(level + cost), 'time', string.format('%.6f', now))
    redis.call('EXPIRE', key, 120)
  elseif kind == 'slots' then
    redis.call('ZADD', key, now + tonumber(ARGV[a + 5]), ARGV[a + 4])
    redis.call('EXPIRE', key, math.ceil(tonumber(ARGV[a + 5])))
  else
    redis.call('SET', key, string.format('%.0f', level + cost), 'EX', math.ceil(tonumber(ARGV[a + 5])))
  end
end
return {0, unpack(levels)}
"""

SETTLE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 3
  local kind, limit, cost = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  if kind == 'rate' then
    local was = redis.call('HMGET', key, 'level', 'time')
    if was[1] then
      local level = math.max(0, tonumber(was[1]) - (now - tonumber(was[2])) * limit / 60)
      level = math.max(0, level + cost)
      redis.call('HSET', key, 'level', tostring(level), 'time', string.format('%.6f', now))
      redis.call('EXPIRE', key, 60 + math.ceil(level * 60 / limit))
    end
  elseif redis.call('EXISTS', key) == 1 then
    if redis.call('INCRBY', key, cost) < 0 then redis.call('SET', key, 0, 'KEEPTTL') end
  end
end
return 0
"""
