-- ARGV: 7 claim id, 8 the nonce. The fields are those of the claim.
local held = redis.call('HGET', hash, ARGV[8])
if not held then
    return {'lost', since, name}
end
if string.sub(held, 1, 1) == 's' then
    return {string.sub(held, 2, 17) == ARGV[7] and 'won' or 'lost', since, name}
end
redis.call('HSET', hash, ARGV[8], 's' .. ARGV[7] .. string.sub(held, 18))
return {'won', since, name}
