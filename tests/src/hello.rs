//! What a recorded ClientHello has in it. It reads only what an honest client wrote.

/// The data of the extension `kind` of the ClientHello at the start of `sent`.
pub fn extension(sent: &[u8], kind: u16) -> Option<&[u8]> {
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([sent[at], sent[at + 1]]));
    // Behind the headers of record and message, the version and the random.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(sent[at]);
    at += 2 + u16_at(at);
    at += 1 + usize::from(sent[at]);
    let end = at + 2 + u16_at(at);
    at += 2;
    while at < end {
        let data = at + 4;
        let len = u16_at(at + 2);
        if u16_at(at) == usize::from(kind) {
            return sent.get(data..data + len);
        }
        at = data + len;
    }
    None
}

/// The identity of the first pre-shared key: a ticket.
pub fn ticket(sent: &[u8]) -> Option<&[u8]> {
    const PRE_SHARED_KEY: u16 = 41;
    let identities = extension(sent, PRE_SHARED_KEY)?.get(2..)?;
    let (len, rest) = identities.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*len)))
}
