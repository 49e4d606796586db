-- sweep(; run_id, lease_ms, forget_ms) -> {run id of the server, how many jobs went back to their queues}
-- One turn; none if the run id is not the server's: after a restart or a failover the leases look older than they
-- are.  Anyone may take a turn, at any time; two at once are as good as one, so a turn soon after another is left out:
-- hundreds of workers cost no more than a few.
local lease_ms, forget_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
local OLDEST, MOST, NEAR = 10, 1000, 1000
local returned, standing, queues = 0, {}, {}

local info = redis.pcall('INFO', 'server')  -- some access lists forbid it: then restarts go unnoticed
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or 'unknown'
if run_id ~= ARGV[1] then return {run_id, 0} end

local swept = tonumber(redis.call('GET', SWEPT) or 0)
if now >= swept and now - swept < lease_ms / 4 then return {run_id, 0} end
redis.call('SET', SWEPT, now)

-- A parent that waited for its children keeps its word; so it does at the claim.
local function return_to(queue, job)
  if not recorded(job, 'children') then redis.call('HSET', job, 'status', 'new', 'updated_at', timestamp()) end
  push(queue, job, 'back')
  returned = returned + 1
end

-- A lease that ran out brings its job back, also when the entry is nowhere: the janitor may have died over it.
local function sweep_lease(job)
  local list = recorded(job, 'list')
  remove(list, job)
  if list then drop_sighting(list, job) end
  end_delivery(job, 'the lease ran out')
  void(job)
  if is_open(job) then return_to(queue_for(list or '-', job), job) end
end

-- An entry without a lease belongs to a lane that is about to claim it, or that died.  After a whole lease period
-- between two looks it died.  `list` is '-' for a job that was seen without an entry: it may stand in its queue, and
-- this is the one time that somebody searches there.
local function sweep_entry(list, job)
  local sighting, queue = list .. '|' .. job, queue_for(list, job)
  local first = redis.call('ZSCORE', SEEN, sighting)
  if not is_open(job) or held_elsewhere(job, list) then
    remove(list, job)
    drop_sighting(list, job)
  elseif recorded(job, 'list') == list then
    drop_sighting(list, job)
  elseif not first then
    redis.call('ZADD', SEEN, now, sighting)
  elseif now - first > lease_ms then
    drop_sighting(list, job)
    if list == '-' and has(queue, job) then
      redis.call('ZADD', SUBMITTED .. queue, now, job)  -- far from the exit: others are looked for first
    elseif remove(list, job) > 0 or not leased(job) then
      return_to(queue, job)
    end
  end
end

-- A job that we put into its queue, and that is there no more without a claim, is in the hands of a lane, or lost:
-- a lane took it and died, and the janitor that took it from there died too.  What was submitted first stands near the
-- exit, so a short look is enough.  A job that somebody else began is left to them.
local function sweep_submitted(queue)
  local looked = 0
  for _, job in ipairs(redis.call('ZRANGE', SUBMITTED .. queue, 0, MOST - 1)) do
    if not is_open(job) or status_of(job) ~= (recorded(job, 'left_as') or 'new') then
      unsubmit(queue, job)  -- others did it
    elseif not standing[job] and not redis.call('LPOS', queue, job, 'RANK', -1, 'MAXLEN', NEAR) then
      return sweep_entry('-', job)
    else
      looked = looked + 1
      if looked == OLDEST then return end
    end
  end
end

for _, job in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now)) do
  sweep_lease(job)
end

wake_due()

for _, list in ipairs(redis.call('ZRANGE', LISTS, 0, -1)) do
  queues[queue_of(list) or list] = true
  for _, job in ipairs(redis.call('LRANGE', list, 0, -1)) do
    standing[job] = true
    sweep_entry(list, job)
  end
end

for queue in pairs(queues) do
  sweep_submitted(queue)
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
