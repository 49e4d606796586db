-- register(list, queue or none) -> {the list's entries, the oldest last; milliseconds until a parked job is due, or -1}
-- A list that is registered is swept.  Whoever looks for work also wakes what is due, so that nobody has to wait for
-- the sweep.  Into a list that is empty the next entry of the queue is moved, if one is named.
redis.call('ZADD', LISTS, now, KEYS[1])
wake_due()
local entries = redis.call('LRANGE', KEYS[1], 0, -1)
if #entries == 0 and KEYS[2] then entries = {redis.call('LMOVE', KEYS[2], KEYS[1], 'RIGHT', 'LEFT') or nil} end
local soonest = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
return {entries, soonest[2] and math.max(0, soonest[2] - now) or -1}
