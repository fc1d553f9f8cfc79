-- ARGV: 7 claim id, 8 the nonce, 9 the last second in which it must be known.
-- In the hash, besides 'life': a nonce's field has 'c' (claimed) or 's' (spent), the claim id, and the next nonce of the same
-- last second, the first of which the field 't' .. second has; 'edge' is a second up to which there are none; 'forgotten' is
-- the last second of the youngest nonce that was removed; 'clock' is the latest moment at which a nonce was kept.
local last = tonumber(ARGV[9])
local kept = redis.call('HMGET', hash, 'edge', 'forgotten', 'clock')
local before = math.floor(now / 1000) - 1
local edge, forgotten, latest = tonumber(kept[1] or before), tonumber(kept[2] or 0), tonumber(kept[3] or 0)

-- What may be forgotten: so much of it that it becomes less, whatever comes.
local old, rest = {}, false
if redis.call('HLEN', hash) <= 1 + (kept[1] and 1 or 0) + (kept[2] and 1 or 0) + (kept[3] and 1 or 0) then
    edge = math.max(edge, before)
end
local second = edge + 1
for _ = 1, 512 do
    if second > before or #old >= 64 then
        break
    end
    local head = redis.call('HGET', hash, 't' .. second)
    while head and head ~= '' and #old < 64 do
        old[#old + 1] = head
        head = string.sub(redis.call('HGET', hash, head), 18)
        forgotten = math.max(forgotten, second)
    end
    if head and head ~= '' then
        rest = head
    else
        if head then
            old[#old + 1] = 't' .. second
        end
        edge = second
        second = second + 1
    end
end
if #old > 0 then
    -- A full server takes a write after one that cannot make it fuller. What is forgotten is noted before it is.
    redis.call('HDEL', hash, '')
    redis.call('HSET', hash, 'forgotten', forgotten, 'edge', edge)
    if rest then
        redis.call('HSET', hash, 't' .. second, rest)
    end
    redis.call('HDEL', hash, unpack(old))
end

local held = redis.call('HGET', hash, ARGV[8])
if not held then
    if last <= forgotten or last <= before then
        return {'forgotten', since, name}
    end
    local bucket = 't' .. last
    local head = redis.call('HGET', hash, bucket) or ''
    redis.call('HSET', hash, ARGV[8], 'c' .. ARGV[7] .. head, bucket, ARGV[8],
        'edge', math.min(edge, last - 1), 'clock', string.format('%.0f', math.max(latest, now)))
    return {'first', since, name}
end
if string.sub(held, 1, 1) == 's' then
    return {'committed', since, name}
end
if string.sub(held, 2, 17) == ARGV[7] then
    return {'first', since, name}
end
return {'pending', since, name}
