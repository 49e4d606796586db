-- release(job; token, pod, place, delay_ms, max_deliveries, how, failure) -> 'released', also when asked again, 'failed'
-- or 'lost'
--
-- front      a worker stops: first in line, the delivery is taken back
-- back       last in line, counted
-- later      parked for `delay_ms`, then first in line, counted
-- waiting    parked until the children are final, or for `delay_ms` where there are none; taken back, status as it is
--
-- A delivery that counts and is the last one ends the job; `failure` is the dead letter's part, as JSON.
local job, token, pod, place, delay_ms, max_deliveries = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]),
  tonumber(ARGV[5])
local how, failure = ARGV[6], ARGV[7]

if recorded(job, 'released') == token then
  set_recorded(job, 'released', token)  -- so that a WAIT after it waits for this release
  return recorded(job, 'settled') == token and 'failed' or 'released'
end
if not held(job, token) then return 'lost' end

local queue, deliveries = recorded(job, 'queue'), tonumber(recorded(job, 'deliveries'))
local counts = place == 'back' or place == 'later'
if counts and deliveries >= max_deliveries then
  local reason = string.format('%s (given up after %d deliveries)', how, deliveries)
  finish(job, pod, 'failed', {'reason', reason}, cjson.decode(failure))
  set_recorded(job, 'released', token, 'settled', token)
  return 'failed'
end

local waits = place == 'waiting' and recorded(job, 'children')
end_delivery(job, how)
if not counts then uncount(job) end
if place == 'waiting' then touch(job, pod) else touch(job, pod, 'status', 'new') end
set_recorded(job, 'released', token, 'since', now)
remove(recorded(job, 'list'), job)
if place == 'front' or (waits and not has_open_children(job)) then
  void(job)
  push(queue, job, 'front')
elseif place == 'back' then
  void(job)
  push(queue, job, 'back')
else
  park(job, 'processing-' .. queue .. ':parked:' .. pod, waits and CHILDREN_MS or delay_ms)
end
return 'released'
