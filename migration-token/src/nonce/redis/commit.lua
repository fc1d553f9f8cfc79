local held = redis.call('GET', KEYS[1])
if held == 'spent ' .. ARGV[1] then
    return {'won', born}
end
if not held or string.sub(held, 1, 8) ~= 'claimed ' then
    return {'lost', born}
end
redis.call('SET', KEYS[1], 'spent ' .. ARGV[1], 'KEEPTTL')
return {'won', born}
