-- give_back(list, job; pod) -> 1 if the job stands at the front of its queue again, else 0
-- For entries that a lane moved to itself and does not work on.  A claim whose answer never came is no delivery.
local list, job, pod = KEYS[1], KEYS[2], ARGV[1]
remove(list, job)
drop_sighting(list, job)
if not is_open(job) or held_elsewhere(job, list) then return 0 end
if recorded(job, 'list') == list then
  uncount(job)
  end_delivery(job, 'never begun')
  touch(job, pod, 'status', 'new')
  void(job)
end
push(queue_of(list), job, 'front')  -- last: it notes the status that the job is left with
return 1
