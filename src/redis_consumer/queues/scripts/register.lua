-- register(list) -> the list's entries, the oldest last.  A list that is registered is swept.
redis.call('ZADD', LISTS, now, KEYS[1])
return redis.call('LRANGE', KEYS[1], 0, -1)
