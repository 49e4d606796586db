-- claim(job, mine; token, pod, lease_ms, max_deliveries) -> {answer}, or {'taken', deliveries, hash}
--
-- taken      ours; also when asked again with the token on record, since the first answer may have been lost
-- gone       the entry is not in our list any more; a job that nobody holds is noted, so that the sweep finds it
-- missing, final, duplicate    the entry is dropped
-- failed     delivered too often; the job is final now
local job, mine = KEYS[1], KEYS[2]
local token, pod, lease_ms, max_deliveries = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

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
  if is_open(job) and not leased(job) then
    redis.call('ZADD', SEEN, 'NX', now, '-|' .. job)
    set_recorded(job, 'queue', queue_of(mine))
  end
  return {'gone'}
end

local status = status_of(job)
if not is_open(job) then return dropped(status and 'final' or 'missing') end

-- A lease on our own list is no duplicate: an earlier claim of ours went unanswered.
if held_elsewhere(job, mine) then return dropped('duplicate') end

local deliveries = tonumber(recorded(job, 'deliveries') or 0)
if deliveries >= max_deliveries then
  remove(mine, job)
  local reason = string.format("Given up after %d deliveries; the last status was '%s'", deliveries, status)
  finish(job, pod, 'failed', {'reason', reason})
  return {'failed'}
end

local former = recorded(job, 'list')
if former ~= mine then remove(former, job) end
set_recorded(job, 'token', token, 'list', mine, 'queue', queue_of(mine), 'claimed', now, 'deliveries', deliveries + 1)
lease(job, lease_ms)
touch(job, pod, 'status', 'started', 'identity_started', pod)
return taken()
