//! A bounds-checked cursor over received bytes, and variable-length integers (RFC 9000 section 16).
//!
//! Never reads past the end: every method answers `None` instead.

use quinn_proto::VarInt;

#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Starts at offset `at`; an offset past the end reads as empty.
    pub(crate) fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        rest
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let [byte] = self.array::<1>()?;
        Some(byte)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let first = *self.bytes.get(self.at)?;
        let length = 1usize << (first >> 6);
        let (head, tail) = self.take(length)?.split_first()?;
        Some(tail.iter().fold(u64::from(head & 0x3f), |value, byte| {
            value << 8 | u64::from(*byte)
        }))
    }

    pub(crate) fn varint_checked(&mut self) -> Option<VarInt> {
        VarInt::from_u64(self.varint()?).ok()
    }

    /// A length field and that many bytes.
    pub(crate) fn length_prefixed(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }

    /// Skips `count` variable-length integers.
    pub(crate) fn skip_varints(&mut self, count: u64) -> Option<()> {
        (0..count).try_for_each(|_| self.varint().map(drop))
    }
}

/// Appends `value` in its shortest encoding.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: VarInt) {
    let value = value.into_inner();
    let bytes = value.to_be_bytes();
    let (length, mark) = match value {
        0..=0x3f => (1, 0x00),
        0x40..=0x3fff => (2, 0x40),
        0x4000..=0x3fff_ffff => (4, 0x80),
        _ => (8, 0xc0),
    };
    let start = out.len();
    out.extend(bytes.iter().skip(bytes.len() - length));
    if let Some(first) = out.get_mut(start) {
        *first |= mark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_9000_appendix_a_1_decode_to_their_values() {
        let examples: [(&[u8], u64); 4] = [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in examples {
            assert_eq!(Reader::new(bytes).varint(), Some(value));
        }
    }

    proptest! {
        #[test]
        fn a_varint_reads_back_and_uses_the_shortest_form(value in 0..1u64 << 62) {
            let mut out = Vec::new();
            put_varint(&mut out, VarInt::from_u64(value).unwrap());
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Some(value));
            prop_assert!(reader.is_empty());
            prop_assert_eq!(out.len(), shortest_length(value));
        }

        #[test]
        fn a_reader_never_moves_past_the_end(bytes in prop::collection::vec(any::<u8>(), 0..20), length in any::<usize>()) {
            let mut reader = Reader::new(&bytes);
            let _ = reader.varint();
            let _ = reader.take(length);
            let _ = reader.length_prefixed();
            prop_assert!(reader.position() <= bytes.len());
        }
    }

    fn shortest_length(value: u64) -> usize {
        [(6, 1), (14, 2), (30, 4), (62, 8)]
            .into_iter()
            .find(|(bits, _)| value < 1 << bits)
            .map(|(_, length)| length)
            .unwrap()
    }
}
