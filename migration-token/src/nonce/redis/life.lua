-- Which life of the data answers, and whether it remembers the token's time. Every script begins with this, behind the server's
-- 'clock'.
-- KEYS: 1 the hash of everything. ARGV: 1 step, 2 issued after, 3 margin, 4 'durable' or '', 5 the present moment of
-- whoever asks, 6 the life that it knows with the beginning by its own measure. Moments are Unix milliseconds. A master's
-- replication id names one history of the data: it changes with every restart and every promotion.
local hash = KEYS[1]
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local margin = tonumber(ARGV[3])
local replication = redis.call('INFO', 'replication')
local history = string.match(replication, 'master_replid:(%x+)')
if not history or not string.find(replication, 'role:master', 1, true) then
    return {'not-primary', 0, ''}
end
-- Nothing is written under a clock that is not checked. A commit knows no present moment, and begins no life.
local commits = ARGV[1] == 'commit'
if not commits and math.abs(now - tonumber(ARGV[5])) > margin then
    return {'clock', now, ''}
end
local life = redis.call('HGET', hash, 'life') or ''
-- The history, the beginning, and the name: a flush ends a life in the middle of a history.
local known, since, name = string.match(life, '^(%x+) (%d+) (%x+:%d+)$')
since = tonumber(since)
local function note()
    redis.call('HSET', hash, 'life', string.format('%s %.0f %s', history, since, name))
end
if known ~= history then
    local followed = not string.find(replication, 'master_replid2:0+%s')
    local begins = not known or followed or ARGV[4] ~= 'durable'
    if begins and commits then
        return {'forgotten', 0, ''}
    end
    if begins then
        -- Later than any clock said that let a token of a former life in.
        local latest = tonumber(redis.call('HGET', hash, 'clock') or 0)
        since = math.max(now, latest) + margin + 1
        -- In microseconds: no two lives begin in one.
        name = string.format('%s:%.0f%06d', history, clock[1], clock[2])
    end
    if not commits then
        note()
    end
    if begins then
        return {'began', since, name}
    end
end
local measured_of, measured = string.match(ARGV[6], '^(%x+:%d+) (%d+)$')
if measured_of == name and tonumber(measured) > since then
    -- The clocks were slow when this life began, and have been set.
    since = tonumber(measured)
    note()
end
if tonumber(ARGV[2]) < since then
    return {'forgotten', since, name}
end
