-- heartbeat(job; token, pod, lease_ms) -> 'held' or 'lost'
local job, token, pod = KEYS[1], ARGV[1], ARGV[2]
if not held(job, token) then return 'lost' end
lease(job, tonumber(ARGV[3]))
keep_record(job)
touch(job, pod)
-- The janitor may have taken the entry out.  The autoscaler must see that there is work.
local list = recorded(job, 'list')
if not has(list, job) then redis.call('LPUSH', list, job) end
return 'held'
