-- update(job; token, pod, field, value, ...) -> 'held' or 'lost'
local job, token, pod = KEYS[1], ARGV[1], ARGV[2]
if not held(job, token) then return 'lost' end
for i = 3, #ARGV, 2 do
  if ARGV[i] == 'status' then set_recorded(job, 'since', now) end
end
if #ARGV > 2 then redis.call('HSET', job, unpack(ARGV, 3)) end
touch(job, pod)
return 'held'
