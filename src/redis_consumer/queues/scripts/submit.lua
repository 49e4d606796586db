-- submit(job, queue; host, field, value, ...) -> 1, or 0 if the job was there already: safe to repeat
local job, queue, host = KEYS[1], KEYS[2], ARGV[1]
if redis.call('EXISTS', job) == 1 then
  set_recorded(job, 'queue', queue)  -- so that a WAIT after it waits for this job
  return 0
end
redis.call('HSET', job, 'status', 'new', 'created_at', timestamp(), 'updated_at', timestamp(),
  'identity_upload', host, unpack(ARGV, 2))
push(queue, job, 'back')
return 1
