-- submit_children(parent; token, pod, first, complete, child, queue, n, field, value, ..., next child, ...)
-- -> {'held', how many children the parent has now} or {'lost'}
--
-- The children from place `first` on, in order; n counts their fields and values together.  A place that is taken
-- stays as it is, whatever the name of the child: so a chunk may be repeated, and another claim of the parent goes
-- on where the one before it died.  `complete` is 1 with the last chunk.  A failover may have undone the chunks before
-- this one: then it begins behind a gap, nothing of it is submitted, and the set is not complete.
local parent, token, pod, first, complete = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if not held(parent, token) then return {'lost'} end

local known = redis.call('ZCARD', children_of(parent))
local place, i = first, 5
while i <= #ARGV do
  local child, queue, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  if place == known then
    redis.call('HSET', child, 'status', 'new', 'created_at', timestamp(), 'updated_at', timestamp(),
      'identity_upload', pod, unpack(ARGV, i + 3, i + 2 + count))
    set_recorded(child, 'parent', parent, 'queue', queue)
    redis.call('ZADD', children_of(parent), place, child)
    if is_open(child) then  -- a part that cannot become a job is submitted as one that failed
      redis.call('SADD', open_children_of(parent), child)
      push(queue, child, 'back')
    end
    known = known + 1
  end
  place, i = place + 1, i + 3 + count
end
keep_children(parent)
set_recorded(parent, 'token', token)  -- so that a WAIT after it waits for this write
if complete == '1' and known >= place then set_recorded(parent, 'children', 1) end
touch(parent, pod)
return {'held', known}
