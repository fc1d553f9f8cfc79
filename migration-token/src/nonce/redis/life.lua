-- Which life of the data answers, and whether it remembers the token's time. Every script begins with this.
-- KEYS: 1 the nonce, 2 the birth. ARGV: 1 claim id, 2 issued after, 3 margin, 4 'durable' or ''. Moments are Unix
-- milliseconds. A master's replication id names one history of the data: it changes with every restart and promotion.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local margin = tonumber(ARGV[3])
local replication = redis.call('INFO', 'replication')
local history = string.match(replication, 'master_replid:(%x+)')
if not history or not string.find(replication, 'role:master', 1, true) then
    return {'not-primary', 0}
end
local known, since = string.match(redis.call('GET', KEYS[2]) or '', '^(%x+) (%d+)$')
if known ~= history then
    local followed = not string.find(replication, 'master_replid2:0+%s')
    if not known or followed or ARGV[4] ~= 'durable' then
        since = string.format('%.0f', now)
    end
    redis.call('SET', KEYS[2], history .. ' ' .. since)
end
local born = tonumber(since)
if tonumber(ARGV[2]) < born + margin then
    return {'forgotten', born}
end
