-- Put in front of every script: the key space, and the words that the scripts are written in.
--
-- <queue>                              list: names of job hashes; in on the left, out on the right
-- processing-<queue>:<lane>:<pod>      list: what one lane took; read and written by it, the sweep and the janitor
-- processing-<queue>:parked:<pod>      list: waiting parents and delayed retries of one pod
-- <job>                                hash: the job, as everybody knows it
-- redis-consumer:lists                 zset: every list of a lane; score: last sign of life of its owner, ms
-- redis-consumer:leases                zset: job -> end of its lease, ms.  Stays until somebody takes it out
-- redis-consumer:due                   zset: parked job -> when it is looked at again, ms
-- redis-consumer:seen                  zset: sighting '<list>|<job>', or '-|<job>' without a list -> first time, ms
-- redis-consumer:submitted:<queue>     zset: job that one of these scripts put into the queue -> when, ms; until it
--                                      is claimed
-- redis-consumer:swept                 string: time of the last sweep, ms
-- redis-consumer:dead                  hash: failed job -> its dead letter as JSON, without secrets
-- redis-consumer:children:<job>        zset: child -> its place among the children of the job
-- redis-consumer:open-children:<job>   set: the children that are not known to be final
-- redis-consumer:job:<job>             hash: what is ours about a job, beside it since children copy the job's hash:
--     token        of the claim that holds the job; whoever does not know it writes nothing
--     list         where the entry of the held or parked job stands
--     queue        where it goes back to
--     claimed      time of that claim, ms
--     since        when its status changed last, ms
--     deliveries   claims so far, less those that were taken back
--     history      the last claims as JSON: when, by whom, by which version, how each ended
--     settled      token of the claim that made the job final
--     released     token of the claim that was given back last
--     children     1 once the job's children are all submitted
--     parent       the job that waits for this one
--     left_as      its status while it stands in a queue, where that is not `new`
--
-- Time is the server's, so that the clocks of the workers do not matter: leases, and `updated_at`, which the janitor
-- compares across pods.  A script runs as one step.  Scripts name keys that they compute, so Redis Cluster is out.

local LISTS, LEASES, DUE, SEEN, SUBMITTED, SWEPT, DEAD =
  'redis-consumer:lists', 'redis-consumer:leases', 'redis-consumer:due', 'redis-consumer:seen',
  'redis-consumer:submitted:', 'redis-consumer:swept', 'redis-consumer:dead'
-- A record lives so long after its last write: longer than anybody repeats a settle, or a poisoned job waits.  It
-- cannot end with its job, since foreign programs end jobs too.
local RECORD_SECONDS = 7 * 86400
local LAST_CLAIMS = 20  -- of the history
local LONGEST_KEPT = 65536  -- of a field, in a dead letter
-- Children tell their parent when they end; foreign programs that end children do not, so it is looked after them.
local CHILDREN_MS, CHILDREN_AT_A_TIME = 30000, 200
-- The server does nothing else meanwhile: a hundred parents of many children would cost a tenth of a second.
local DUE_AT_A_TIME, CHILDREN_IN_A_SCRIPT = 100, 1000

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

-- Lua passes some 8,000 values to a function: fields beyond that come in parts, the last ones in the last part.
local VALUES_AT_A_TIME = 4200

local function write_fields(job, fields)
  for i = 1, #fields, VALUES_AT_A_TIME do
    redis.call('HSET', job, unpack(fields, i, math.min(i + VALUES_AT_A_TIME - 1, #fields)))
  end
end

local function touch(job, pod, ...)
  redis.call('HSET', job, 'updated_at', timestamp(), 'updated_by', pod, ...)
end

-- Lists, leases, sightings.

local function queue_of(list)
  return string.match(list, '^processing%-(.-):')
end

local function queue_for(list, job)
  return queue_of(list) or recorded(job, 'queue') or string.match(job, '^[^:]*')
end

local function has(list, job)
  return list ~= nil and list ~= '-' and redis.call('LPOS', list, job) ~= false
end

local function remove(list, job)
  if list ~= nil and list ~= '-' then return redis.call('LREM', list, 0, job) end
  return 0
end

-- Every way into a queue: to the exit ('front') or to the entrance.  Parents that waited keep their status, so it is
-- noted: who takes the job, ours or not, writes another.
local function push(queue, job, place)
  redis.call(place == 'front' and 'RPUSH' or 'LPUSH', queue, job)
  redis.call('ZADD', SUBMITTED .. queue, now, job)
  redis.call('EXPIRE', SUBMITTED .. queue, RECORD_SECONDS)  -- others may serve the queue, and take nobody out here
  local status = status_of(job)
  if status == 'new' then
    redis.call('HDEL', record(job), 'left_as')
  else
    set_recorded(job, 'left_as', status)
  end
end

local function unsubmit(queue, job)
  redis.call('ZREM', SUBMITTED .. queue, job)
end

local function leased(job)  -- and the lease has not run out
  local ends = redis.call('ZSCORE', LEASES, job)
  return ends and tonumber(ends) > now
end

local function parked(job)
  return redis.call('ZSCORE', DUE, job) ~= false
end

local function held_elsewhere(job, list)
  local theirs = recorded(job, 'list')
  return theirs ~= list and (leased(job) or parked(job)) and has(theirs, job)
end

local function lease(job, milliseconds)
  redis.call('ZADD', LEASES, now + milliseconds, job)
end

local function drop_sighting(list, job)
  redis.call('ZREM', SEEN, list .. '|' .. job)
end

-- The history of the claims.

local function history(job)
  local text = recorded(job, 'history')
  return text and cjson.decode(text) or {}
end

local function begin_delivery(job, pod, version)
  local claims = history(job)
  claims[#claims + 1] = {at = timestamp(), by = pod, version = version}
  if #claims > LAST_CLAIMS then table.remove(claims, 1) end
  set_recorded(job, 'history', cjson.encode(claims))
end

local function end_delivery(job, how)
  local claims = history(job)
  local last = claims[#claims]
  if not last or last.ended_at then return end
  last.ended_at, last.how = timestamp(), how
  set_recorded(job, 'history', cjson.encode(claims))
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
  redis.call('ZREM', DUE, job)
end

-- Children.

local function children_of(job)
  return 'redis-consumer:children:' .. job
end

local function open_children_of(job)
  return 'redis-consumer:open-children:' .. job
end

local function keep_children(job)
  redis.call('EXPIRE', children_of(job), RECORD_SECONDS)
  redis.call('EXPIRE', open_children_of(job), RECORD_SECONDS)
end

local function has_open_children(job)
  return redis.call('SCARD', open_children_of(job)) > 0
end

-- Out of the park, to the exit of its queue: it has waited.
local function wake(job)
  local list = recorded(job, 'list')
  remove(list, job)
  void(job)
  push(queue_for(list or '-', job), job, 'front')
end

local function tell_parent(job)
  local parent = recorded(job, 'parent')
  if not parent or redis.call('SREM', open_children_of(parent), job) == 0 then return end
  if not is_open(parent) or not parked(parent) or not recorded(parent, 'children') then return end
  local all = redis.call('ZCARD', children_of(parent))
  local final = all - redis.call('SCARD', open_children_of(parent))
  local share = tonumber(redis.call('HGET', parent, 'children_share') or 100) or 100
  redis.call('HSET', parent, 'progress', math.floor(share * final / all))
  if final == all then wake(parent) end
end

-- Look after some children of a parked job, and return how many.
local function look_at_children(job)
  local children = redis.call('SRANDMEMBER', open_children_of(job), CHILDREN_AT_A_TIME)
  for _, child in ipairs(children) do
    if not is_open(child) then redis.call('SREM', open_children_of(job), child) end
  end
  return #children
end

-- Wake a parked job, or keep its entry where it can be seen.
local function wake_or_wait(job)
  if not recorded(job, 'children') or not has_open_children(job) then return wake(job) end
  local list = recorded(job, 'list')
  if not has(list, job) then redis.call('LPUSH', list, job) end
  redis.call('ZADD', DUE, now + CHILDREN_MS, job)
  keep_record(job)
  keep_children(job)
end

local function wake_due()
  local looks = 0
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, DUE_AT_A_TIME)) do
    if looks >= CHILDREN_IN_A_SCRIPT then return end  -- the others are still due
    if is_open(job) then
      looks = looks + look_at_children(job)
      wake_or_wait(job)
    else
      remove(recorded(job, 'list'), job)
      void(job)
    end
  end
end

local function park(job, list, milliseconds)
  void(job)
  redis.call('LPUSH', list, job)
  redis.call('ZADD', LISTS, now, list)
  redis.call('ZADD', DUE, now + milliseconds, job)
  set_recorded(job, 'list', list)
end

-- The end.

local SECRET = {'passw', 'secret', 'token', 'credential', 'signature', 'authorization', 'api_key', 'apikey',
  'access_key', 'private_key'}

local function is_secret(name)
  for _, word in ipairs(SECRET) do
    if string.find(string.lower(name), word, 1, true) then return true end
  end
  return false
end

-- Addresses without user, password and signature: passwords may hold '?' and '#', or '/' and '@'; signatures anything
-- but a space.  The limit bounds the time that the server stands still.
local function bare(value)
  if not string.find(value, '://', 1, true) then return value end
  if #value > 4096 then return '(left out)' end
  value = string.gsub(value, '://[^%s/@]*@', '://')
  value = string.gsub(value, '://[^%s"\'?#]*@', '://')
  return (string.gsub(value, '(://[^%s?#]*)[?#]%S*', '%1'))
end

-- `failure`: {error = the class, traceback = text or nil}
local function bury(job, failure)
  local fields, kept = redis.call('HGETALL', job), {}
  for i = 1, #fields, 2 do
    local value = #fields[i + 1] > LONGEST_KEPT and '(left out)' or fields[i + 1]
    if not is_secret(fields[i]) then kept[fields[i]] = bare(value) end
  end
  local claims = history(job)
  redis.call('HSET', DEAD, job, cjson.encode({
    queue = queue_for('-', job), died_at = timestamp(), error = failure.error, traceback = failure.traceback,
    reason = kept['reason'], fields = kept, deliveries = #claims > 0 and claims or nil,
  }))
end

-- Make the job final: its last fields in one write, as readers look once; where they are too many, the status with the
-- last of them.  The hash gets no TTL from us: a parent
-- would wait for ever for a child that vanished.
local function finish(job, pod, status, fields, failure)
  for _, item in ipairs({'updated_at', timestamp(), 'updated_by', pod, 'status', status}) do
    fields[#fields + 1] = item
  end
  write_fields(job, fields)
  end_delivery(job, failure and failure.error or status)
  remove(recorded(job, 'list'), job)
  void(job)
  if failure then bury(job, failure) end
  tell_parent(job)
end
