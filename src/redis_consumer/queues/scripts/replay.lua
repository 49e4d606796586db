-- replay(job; who) -> 'replayed', 'unknown' (no such dead letter) or 'not failed'
-- A dead job under its own name, as if it were new: with the fields that it had, also where its hash expired.
local job, who = KEYS[1], ARGV[1]
local text = redis.call('HGET', DEAD, job)
if not text then return 'unknown' end
if status_of(job) and status_of(job) ~= 'failed' then return 'not failed' end

local letter = cjson.decode(text)
local fields = {}
for name, value in pairs(letter.fields) do
  if redis.call('HEXISTS', job, name) == 0 then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
write_fields(job, fields)
redis.call('HDEL', job, 'reason', 'progress', 'identity_started')
redis.call('PERSIST', job)  -- clients let a final hash expire, and would take this one away under the work
touch(job, who, 'status', 'new')
local parent = recorded(job, 'parent')
redis.call('DEL', record(job), children_of(job), open_children_of(job))
-- Else a parent that still waits would be woken without it.
if parent and is_open(parent) and redis.call('ZSCORE', children_of(parent), job) then
  set_recorded(job, 'parent', parent)
  redis.call('SADD', open_children_of(parent), job)
  keep_children(parent)
end
redis.call('HDEL', DEAD, job)
push(letter.queue, job, 'back')
return 'replayed'
