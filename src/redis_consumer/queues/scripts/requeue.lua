-- requeue(job; who) -> 'requeued', 'final' or 'missing'
-- First in line again, its deliveries forgotten.  Whoever works on it loses it.  A second entry, of a job that waited
-- in its queue all the time, is dropped when it is claimed.
local job, who = KEYS[1], ARGV[1]
if not is_open(job) then return status_of(job) and 'final' or 'missing' end
local list = recorded(job, 'list')
end_delivery(job, 'requeued by ' .. who)
remove(list, job)
void(job)
redis.call('HDEL', record(job), 'deliveries')
touch(job, who, 'status', 'new')
push(queue_for(list or '-', job), job, 'front')
return 'requeued'
