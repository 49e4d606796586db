-- cancel(job; who, reason) -> 'cancelled', 'final' or 'missing'
-- Whoever works on the job learns of it at the next heartbeat.
local job, who, reason = KEYS[1], ARGV[1], ARGV[2]
if not is_open(job) then return status_of(job) and 'final' or 'missing' end
finish(job, who, 'failed', {'reason', reason}, {error = 'Cancelled'})
return 'cancelled'
