-- register(list) -> {the list's entries, the oldest last; milliseconds until a parked job is due, or -1}
-- A list that is registered is swept.  Whoever looks for work also wakes what is due, so that nobody has to wait for
-- the sweep.
redis.call('ZADD', LISTS, now, KEYS[1])
wake_due()
local soonest = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
return {redis.call('LRANGE', KEYS[1], 0, -1), soonest[2] and math.max(0, soonest[2] - now) or -1}
