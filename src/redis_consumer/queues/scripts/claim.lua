-- claim(job, mine; token, pod, version, lease_ms, max_deliveries) -> {answer}, or {'taken', deliveries, hash}
--
-- taken      ours; also when asked again with the token on record, since the first answer may have been lost
-- gone       the entry is not in our list any more; a job that nobody holds is noted, so that the sweep finds it
-- missing, final, duplicate    the entry is dropped
-- failed     delivered too often, or too large to be read; the job is final now
local job, mine = KEYS[1], KEYS[2]
local token, pod, version, lease_ms, max_deliveries = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

-- A worker reads all fields into its memory, and so does this server for the reply.
local MOST_BYTES = 16 * 1024 * 1024

local function taken()
  return {'taken', tonumber(recorded(job, 'deliveries')), redis.call('HGETALL', job)}
end

local function dropped(answer)
  remove(mine, job)
  return {answer}
end

if held(job, token) then
  set_recorded(job, 'token', token)  -- so that a WAIT after it waits for this claim
  return taken()
end

drop_sighting(mine, job)
if not has(mine, job) then
  if is_open(job) and not leased(job) and not parked(job) then
    redis.call('ZADD', SEEN, 'NX', now, '-|' .. job)
    set_recorded(job, 'queue', queue_of(mine))
  end
  return {'gone'}
end

local status = status_of(job)
if not is_open(job) then
  unsubmit(queue_of(mine), job)
  return dropped(status and 'final' or 'missing')
end

-- A lease on our own list is no duplicate: an earlier claim of ours went unanswered.
if held_elsewhere(job, mine) then return dropped('duplicate') end

unsubmit(queue_of(mine), job)
local deliveries = tonumber(recorded(job, 'deliveries') or 0)
if deliveries >= max_deliveries then
  remove(mine, job)
  local claims = history(job)
  local how = claims[#claims] and claims[#claims].how or 'no word'
  local reason = string.format("Given up after %d deliveries; the last status was '%s', the last one ended with: %s",
    deliveries, status, how)
  finish(job, pod, 'failed', {'reason', reason}, {error = 'TooManyDeliveries'})
  return {'failed'}
end

local bytes = 0
for _, name in ipairs(redis.call('HKEYS', job)) do
  bytes = bytes + #name + redis.call('HSTRLEN', job, name)
end
if bytes > MOST_BYTES then
  remove(mine, job)
  local reason = string.format('The fields of the job take %d bytes: allowed are %d', bytes, MOST_BYTES)
  finish(job, pod, 'failed', {'reason', reason}, {error = 'JobRejected'})
  return {'failed'}
end

local former = recorded(job, 'list')
if former ~= mine then remove(former, job) end
void(job)
set_recorded(job, 'token', token, 'list', mine, 'queue', queue_of(mine), 'claimed', now, 'since', now,
  'deliveries', deliveries + 1)
begin_delivery(job, pod, version)
lease(job, lease_ms)
-- A parent that waited for its children goes on where it was: readers saw it start already.
if recorded(job, 'children') and status ~= 'new' then
  keep_children(job)
  touch(job, pod)
else
  touch(job, pod, 'status', 'started', 'identity_started', pod)
end
return taken()
