-- settle(job; token, pod, status, failure, field, value, ...) -> 'settled', 'already' or 'lost'
-- `failure` is the dead letter's part, as JSON; nothing for a job that is done.
local job, token, pod, status, failure = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if recorded(job, 'settled') == token then
  set_recorded(job, 'settled', token)  -- so that a WAIT after it waits for this settle
  return 'already'
end
if not held(job, token) then return 'lost' end

local fields, given = {}, {}
for i = 5, #ARGV, 2 do
  given[ARGV[i]] = ARGV[i + 1]
end

-- What readers rely on, unless the consumer wrote it: into the same write as the status.
local function default(name, value)
  if given[name] == nil and redis.call('HEXISTS', job, name) == 0 then given[name] = value end
end

if status == 'done' then
  default('finished_at', timestamp())
  default('total_time', string.format('%.3f', (now - recorded(job, 'claimed')) / 1000))
  default('total_jobs', '1')
else
  -- The page shows the last line of the reason.
  local reason = given['reason'] or redis.call('HGET', job, 'reason') or ''
  reason = string.gsub(reason, '%s+$', '')
  given['reason'] = reason ~= '' and reason or 'The consumer gave no reason'
end

for name, value in pairs(given) do
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
finish(job, pod, status, fields, status == 'failed' and cjson.decode(failure) or nil)
set_recorded(job, 'settled', token)  -- not before: an error would leave a job that is settled and not final
return 'settled'
