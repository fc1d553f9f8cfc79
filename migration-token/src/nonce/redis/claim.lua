-- ARGV: 5 the present moment of whoever asks, 6 keep until.
local keep_until = tonumber(ARGV[6])
if math.abs(now - tonumber(ARGV[5])) > margin or keep_until <= now then
    return {'clock', now}
end
local held = redis.call('GET', KEYS[1])
if not held then
    redis.call('SET', KEYS[1], 'claimed ' .. ARGV[1], 'PXAT', string.format('%.0f', keep_until + margin))
    return {'first', born}
end
if held == 'claimed ' .. ARGV[1] then
    return {'first', born}
end
if string.sub(held, 1, 8) == 'claimed ' then
    return {'pending', born}
end
return {'committed', born}
