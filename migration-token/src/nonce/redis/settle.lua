-- Lets a life that has just begun remember from the moment at which whoever began it has learned of that.
-- KEYS: 1 the hash. ARGV: 1 the life as it was told, 2 that moment.
if redis.call('HGET', KEYS[1], 'life') == ARGV[1] then
    local history, since, name = string.match(ARGV[1], '^(%x+) (%d+) (%x+:%d+)$')
    local latest = tonumber(redis.call('HGET', KEYS[1], 'clock') or 0)
    local settled = math.max(tonumber(ARGV[2]), latest + 1)
    if settled < tonumber(since) then
        redis.call('HSET', KEYS[1], 'life', string.format('%s %.0f %s', history, settled, name))
    end
end
return {'settled', 0, ''}
