-- Shows in Wireshark and tshark what this project adds to TLS and QUIC (docs/protocol.md section 1; draft-saa-ali-quic):
-- migration_support, migration_token and its fields, migration_stream, migrate_notify, the frame SERVER_ALTERNATE_ADDRESS
-- and the transport parameter enable_server_migration.
--
--     wireshark -X lua_script:tools/wireshark/migration.lua -o tls.keylog_file:KEYS CAPTURE
--
-- All but the extensions of a ClientHello is encrypted, so the key log is needed. It reads what the dissectors of TLS and
-- QUIC have found, and changes nothing of it. The code points are preferences of the protocol "migration".

local migration = Proto("migration", "TLS and QUIC server migration")

local f = {
    support = ProtoField.bool("migration.support", "migration_support"),
    token = ProtoField.bytes("migration.token", "migration_token"),
    target = ProtoField.string("migration.token.target", "Target"),
    session_id = ProtoField.bytes("migration.token.session_id", "Session ID"),
    expiry = ProtoField.absolute_time("migration.token.expiry", "Expiry", base.UTC),
    nonce = ProtoField.bytes("migration.token.nonce", "Nonce"),
    signature = ProtoField.bytes("migration.token.signature", "Signature"),
    stream = ProtoField.bool("migration.stream", "migration_stream: the stream itself moves"),
    notify = ProtoField.bool("migration.notify", "migrate_notify"),
    parameter = ProtoField.bool("migration.quic.enabled", "enable_server_migration"),
    frame = ProtoField.bytes("migration.quic.alternate", "SERVER_ALTERNATE_ADDRESS"),
    sequence = ProtoField.uint64("migration.quic.alternate.sequence", "Sequence Number"),
    ipv4 = ProtoField.string("migration.quic.alternate.ipv4", "IPv4 address"),
    ipv6 = ProtoField.string("migration.quic.alternate.ipv6", "IPv6 address"),
    connection_id = ProtoField.bytes("migration.quic.alternate.connection_id", "Connection ID"),
    reset_token = ProtoField.bytes("migration.quic.alternate.reset_token", "Stateless Reset Token"),
}
migration.fields = f

local malformed = ProtoExpert.new("migration.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
migration.experts = { malformed }

migration.prefs.support = Pref.uint("migration_support", 0xFF4D, "TLS ExtensionType")
migration.prefs.token = Pref.uint("migration_token", 0xFF4E, "TLS ExtensionType")
migration.prefs.stream = Pref.uint("migration_stream", 0xFF4F, "TLS ExtensionType")
migration.prefs.notify = Pref.uint("migrate_notify", 224, "TLS AlertDescription")
migration.prefs.frame = Pref.uint("SERVER_ALTERNATE_ADDRESS", 0x5aa00a, "QUIC frame type")
migration.prefs.parameter = Pref.uint("enable_server_migration", 0x5aa00b, "QUIC transport parameter")

local extension_type = Field.new("tls.handshake.extension.type")
local alert_description = Field.new("tls.alert_message.desc")
local parameter_type = Field.new("tls.quic.parameter.type")
local frame_type = Field.new("quic.frame_type")

-- Takes what a token or frame is made of from its bytes, one after the other.
local Reader = {}
Reader.__index = Reader

function Reader.new(range)
    return setmetatable({ range = range, at = 0 }, Reader)
end

function Reader:left()
    return self.range:len() - self.at
end

-- The next `len` bytes; an error when there are not so many.
function Reader:take(len)
    if len == 0 or len > self:left() then
        error("ends within a field", 0)
    end
    local part = self.range(self.at, len)
    self.at = self.at + len
    return part
end

-- What a length of one byte stands before.
function Reader:vector()
    return self:take(self:take(1):uint())
end

-- RFC 9000 section 16. Answers its bytes and its value.
function Reader:varint()
    local len = 2 ^ math.floor(self.range(self.at, 1):uint() / 64)
    local part = self:take(len)
    local value = UInt64.new(part(0, 1):uint() % 64)
    for at = 1, len - 1 do
        value = value * 256 + part(at, 1):uint()
    end
    return part, value
end

local function ipv4(range)
    return tostring(range:ipv4())
end

local function ipv6(range)
    return "[" .. tostring(range:ipv6()) .. "]"
end

-- docs/protocol.md section 2.
local function token(range, tree)
    local reader = Reader.new(range)
    local kind = reader:take(1):uint()
    local address = kind == 0 and ipv4(reader:take(4)) or ipv6(reader:take(16))
    local port = reader:take(2):uint()
    tree:add(f.target, range(0, reader.at), address .. ":" .. port)
    tree:append_text(" to " .. address .. ":" .. port)
    tree:add(f.session_id, reader:vector())
    local expiry = reader:take(8)
    tree:add(f.expiry, expiry, NSTime.new(expiry:uint64():tonumber()))
    tree:add(f.nonce, reader:vector())
    tree:add(f.signature, reader:vector())
    if reader:left() > 0 then
        error("goes on after the signature", 0)
    end
end

-- draft-saa-ali-quic, "Server Alternate Address Frame".
local function alternate(range, tree)
    local reader = Reader.new(range)
    reader:varint()
    local sequence, number = reader:varint()
    tree:add(f.sequence, sequence, number)
    local v4 = reader:take(6)
    local v6 = reader:take(18)
    for _, part in ipairs({
        { field = f.ipv4, range = v4, address = ipv4(v4(0, 4)), port = v4(4, 2):uint() },
        { field = f.ipv6, range = v6, address = ipv6(v6(0, 16)), port = v6(16, 2):uint() },
    }) do
        -- An address that is all zeros is not offered.
        if part.port > 0 then
            tree:add(part.field, part.range, part.address .. ":" .. part.port)
            tree:append_text(" " .. part.address .. ":" .. part.port)
        end
    end
    tree:add(f.connection_id, reader:vector())
    tree:add(f.reset_token, reader:take(16))
    tree:set_len(reader.at)
end

local function read(how, range, tree)
    local well, reason = pcall(how, range, tree)
    if not well then
        tree:add_proto_expert_info(malformed, reason)
    end
end

-- An extension's content, which stands after its type and its length of two bytes each; nothing when it is empty.
local function content(kind)
    local len = kind.source:range(kind.offset + 2, 2):uint()
    return len > 0 and kind.source:range(kind.offset + 4, len)
end

local function extensions(tree)
    for _, kind in ipairs({ extension_type() }) do
        if kind.value == migration.prefs.support then
            tree():add(f.support, kind.range, true)
        elseif kind.value == migration.prefs.stream then
            tree():add(f.stream, kind.range, true)
        elseif kind.value == migration.prefs.token then
            local range = content(kind)
            if range then
                read(token, range, tree():add(f.token, range))
            else
                tree():add(f.token, kind.range):add_proto_expert_info(malformed, "is empty")
            end
        end
    end
end

local function alerts(tree)
    for _, alert in ipairs({ alert_description() }) do
        if alert.value == migration.prefs.notify then
            tree():add(f.notify, alert.range, true)
        end
    end
end

local function quic(tree)
    for _, kind in ipairs({ parameter_type() }) do
        if tostring(kind.value) == tostring(migration.prefs.parameter) then
            tree():add(f.parameter, kind.range, true)
        end
    end
    for _, kind in ipairs({ frame_type() }) do
        if tostring(kind.value) == tostring(migration.prefs.frame) then
            -- The dissector of QUIC does not know where its frame ends.
            local range = kind.source:range(kind.offset)
            read(alternate, range, tree():add(f.frame, range))
        end
    end
end

function migration.dissector(_, _, root)
    local added
    local function tree()
        added = added or root:add(migration)
        return added
    end
    extensions(tree)
    alerts(tree)
    quic(tree)
end

register_postdissector(migration)
