-- release(job; token, pod, 'front' or 'back') -> 'released', also when asked again, or 'lost'
-- To the front, from a worker that stops, the delivery is taken back.
local job, token, pod, place = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

if recorded(job, 'released') == token then
  set_recorded(job, 'released', token)  -- so that a WAIT after it waits for this release
  return 'released'
end
if not held(job, token) then return 'lost' end

local queue = recorded(job, 'queue')
remove(recorded(job, 'list'), job)
if place == 'front' then
  redis.call('RPUSH', queue, job)
  uncount(job)
else
  redis.call('LPUSH', queue, job)
end
touch(job, pod, 'status', 'new')
set_recorded(job, 'released', token)
void(job)
return 'released'
