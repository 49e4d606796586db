-- sweep(; run_id, lease_ms, forget_ms) -> {run id of the server, how many jobs went back to their queues}
-- One turn; none if the run id is not the server's: after a restart or a failover the leases look older than they
-- are.  Anyone may take a turn, at any time; two at once are as good as one.
local lease_ms, forget_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
local returned = 0

local info = redis.pcall('INFO', 'server')  -- some access lists forbid it: then restarts go unnoticed
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or 'unknown'
if run_id ~= ARGV[1] then return {run_id, 0} end

local function queue_for(list, job)
  return queue_of(list) or recorded(job, 'queue') or string.match(job, '^[^:]*')
end

local function return_to(queue, job)
  redis.call('LPUSH', queue, job)
  returned = returned + 1
end

-- A lease that ran out brings its job back, also when the entry is nowhere: the janitor may have died over it.
local function sweep_lease(job)
  local list = recorded(job, 'list')
  remove(list, job)
  if list then drop_sighting(list, job) end
  if is_open(job) then return_to(queue_for(list or '-', job), job) end
  void(job)
end

-- An entry without a lease belongs to a lane that is about to claim it, or that died.  After a whole lease period
-- between two looks it died.  `list` is '-' for a job that was seen without an entry.
local function sweep_entry(list, job)
  local sighting = list .. '|' .. job
  local first = redis.call('ZSCORE', SEEN, sighting)
  if not is_open(job) or held_elsewhere(job, list) then
    remove(list, job)
    drop_sighting(list, job)
  elseif recorded(job, 'list') == list then
    drop_sighting(list, job)
  elseif not first then
    redis.call('ZADD', SEEN, now, sighting)
  elseif now - first > lease_ms then
    if remove(list, job) > 0 or not leased(job) then return_to(queue_for(list, job), job) end
    drop_sighting(list, job)
  end
end

for _, job in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now)) do
  sweep_lease(job)
end

for _, list in ipairs(redis.call('ZRANGE', LISTS, 0, -1)) do
  for _, job in ipairs(redis.call('LRANGE', list, 0, -1)) do
    sweep_entry(list, job)
  end
end

for _, sighting in ipairs(redis.call('ZRANGE', SEEN, 0, -1)) do
  local list, job = string.match(sighting, '^([^|]*)|(.*)$')
  if not has(list, job) then sweep_entry(list, job) end
end

-- Not before the last BLMOVE of a dead lane has surely timed out: the server may still serve it.
for _, list in ipairs(redis.call('ZRANGEBYSCORE', LISTS, '-inf', now - forget_ms)) do
  if redis.call('LLEN', list) == 0 then redis.call('ZREM', LISTS, list) end
end

return {run_id, returned}
