-- Put in front of every script: the key space, and the words that the scripts are written in.
--
-- <queue>                              list: names of job hashes; in on the left, out on the right
-- processing-<queue>:<lane>:<pod>      list: what one lane took; read and written by it, the sweep and the janitor
-- processing-<queue>:parked:<pod>      list: waiting parents and delayed retries of one pod
-- <job>                                hash: the job, as everybody knows it
-- redis-consumer:lists                 zset: every list of a lane; score: last sign of life of its owner, ms
-- redis-consumer:leases                zset: job -> end of its lease, ms.  Stays until somebody takes it out
-- redis-consumer:seen                  zset: sighting '<list>|<job>', or '-|<job>' without a list -> first time, ms
-- redis-consumer:dead                  hash: failed job -> its fields as JSON, without secrets
-- redis-consumer:job:<job>             hash: what is ours about a job, beside it since children copy the job's hash:
--     token        of the claim that holds the job; whoever does not know it writes nothing
--     list         where the entry of the held job stands
--     queue        where it goes back to
--     claimed      time of that claim, ms
--     deliveries   claims so far, less those that were taken back
--     settled      token of the claim that made the job final
--     released     token of the claim that was given back last
--     children     1 once the job's children are submitted
--
-- Time is the server's, so that the clocks of the workers do not matter: leases, and `updated_at`, which the janitor
-- compares across pods.  A script runs as one step.  Scripts name keys that they compute, so Redis Cluster is out.

local LISTS, LEASES, SEEN, DEAD =
  'redis-consumer:lists', 'redis-consumer:leases', 'redis-consumer:seen', 'redis-consumer:dead'
-- A record lives so long after its last write: longer than anybody repeats a settle, or a poisoned job waits.  It
-- cannot end with its job, since foreign programs end jobs too.
local RECORD_SECONDS = 7 * 86400

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- ISO 8601 with offset, as the janitor demands.  Date from days: Howard Hinnant, "chrono-Compatible Low-Level Date
-- Algorithms"; years begin in March there, so that the leap day comes last.
local function iso(seconds, micros)
  local days = math.floor(seconds / 86400) + 719468
  local era = math.floor(days / 146097)
  local day_of_era = days - era * 146097
  local year_of_era = math.floor((day_of_era - math.floor(day_of_era / 1460) + math.floor(day_of_era / 36524)
    - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local shifted = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * shifted + 2) / 5) + 1
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  local rest = seconds % 86400
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06d+00:00', year, month, day,
    math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60, micros)
end

local function timestamp()
  return iso(tonumber(clock[1]), tonumber(clock[2]))
end

-- The record.

local function record(job)
  return 'redis-consumer:job:' .. job
end

local function recorded(job, name)
  return redis.call('HGET', record(job), name) or nil
end

local function keep_record(job)
  redis.call('EXPIRE', record(job), RECORD_SECONDS)
end

local function set_recorded(job, ...)
  redis.call('HSET', record(job), ...)
  keep_record(job)
end

-- The job's hash.

local function status_of(job)  -- nil: there is no such hash
  if redis.call('TYPE', job).ok ~= 'hash' then return nil end
  return redis.call('HGET', job, 'status') or ''
end

local function is_open(job)
  local status = status_of(job)
  return status ~= nil and status ~= 'done' and status ~= 'failed'
end

local function touch(job, pod, ...)
  redis.call('HSET', job, 'updated_at', timestamp(), 'updated_by', pod, ...)
end

-- Lists, leases, sightings.

local function queue_of(list)
  return string.match(list, '^processing%-(.-):')
end

local function has(list, job)
  return list ~= nil and list ~= '-' and redis.call('LPOS', list, job) ~= false
end

local function remove(list, job)
  if list ~= nil and list ~= '-' then return redis.call('LREM', list, 0, job) end
  return 0
end

local function leased(job)  -- and the lease has not run out
  local ends = redis.call('ZSCORE', LEASES, job)
  return ends and tonumber(ends) > now
end

local function held_elsewhere(job, list)
  local theirs = recorded(job, 'list')
  return theirs ~= list and leased(job) and has(theirs, job)
end

local function lease(job, milliseconds)
  redis.call('ZADD', LEASES, now + milliseconds, job)
end

local function drop_sighting(list, job)
  redis.call('ZREM', SEEN, list .. '|' .. job)
end

-- Steps that scripts share.

-- The guard of every script that writes.  A lease that ran out is no obstacle while nobody else took the job.
local function held(job, token)
  return is_open(job) and recorded(job, 'token') == token
end

local function uncount(job)
  redis.call('HINCRBY', record(job), 'deliveries', -1)
end

local function void(job)
  redis.call('HDEL', record(job), 'token', 'list')
  redis.call('ZREM', LEASES, job)
end

local SECRET = {'passw', 'secret', 'token', 'credential', 'signature', 'authorization', 'api_key', 'apikey',
  'access_key', 'private_key'}

local function is_secret(name)
  for _, word in ipairs(SECRET) do
    if string.find(string.lower(name), word, 1, true) then return true end
  end
  return false
end

-- Addresses without user, password and signature.  The limit bounds the time that the server stands still.
local function bare(value)
  if not string.find(value, '://', 1, true) then return value end
  if #value > 4096 then return '(left out)' end
  value = string.gsub(value, '://[^%s/@]*@', '://')
  return (string.gsub(value, '(://[^%s?#]*)[?#]%S*', '%1'))
end

local function bury(job)
  local fields, kept = redis.call('HGETALL', job), {}
  for i = 1, #fields, 2 do
    if not is_secret(fields[i]) then kept[fields[i]] = bare(fields[i + 1]) end
  end
  redis.call('HSET', DEAD, job, cjson.encode(kept))
end

-- Make the job final: its last fields in one write, as readers look once.  The hash gets no TTL from us: a parent
-- would wait for ever for a child that vanished.
local function finish(job, pod, status, fields)
  for _, item in ipairs({'status', status, 'updated_at', timestamp(), 'updated_by', pod}) do
    fields[#fields + 1] = item
  end
  redis.call('HSET', job, unpack(fields))
  remove(recorded(job, 'list'), job)
  void(job)
  if status == 'failed' then bury(job) end
end
