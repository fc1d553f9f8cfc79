//! Looking for packet numbers in an ACK frame (RFC 9000 section 19.3).
//!
//! Never builds the list of ranges: it walks them once.

use super::Reader;

/// Whether the ACK frame with this body acknowledges packet `number`. A malformed frame acknowledges nothing more
/// than the ranges that come before the fault.
pub fn ack_covers(body: &[u8], number: u64) -> bool {
    let mut reader = Reader::new(body);
    covers(&mut reader, number).unwrap_or(false)
}

fn covers(reader: &mut Reader<'_>, number: u64) -> Option<bool> {
    let mut high = reader.varint()?;
    let _delay = reader.varint()?;
    let count = reader.varint()?;
    let mut low = high.checked_sub(reader.varint()?)?;
    for _ in 0..count {
        if number > high {
            return Some(false);
        }
        if number >= low {
            return Some(true);
        }
        // RFC 9000 section 19.3.1: the next range ends two below the lowest number of this one, less the gap.
        high = low.checked_sub(reader.varint()?.checked_add(2)?)?;
        low = high.checked_sub(reader.varint()?)?;
    }
    Some((low..=high).contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::put_varint;
    use proptest::prelude::*;
    use quinn_proto::VarInt;
    use std::collections::BTreeSet;

    /// Encodes a set of packet numbers as an ACK frame body.
    fn encode(numbers: &BTreeSet<u64>) -> Vec<u8> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for number in numbers.iter().rev() {
            match ranges.last_mut() {
                Some((low, _)) if *low == number + 1 => *low = *number,
                _ => ranges.push((*number, *number)),
            }
        }
        let mut out = Vec::new();
        let mut put = |value: u64| put_varint(&mut out, VarInt::from_u64(value).unwrap());
        put(ranges[0].1);
        put(0);
        put(u64::try_from(ranges.len()).unwrap() - 1);
        put(ranges[0].1 - ranges[0].0);
        for pair in ranges.windows(2) {
            put(pair[0].0 - pair[1].1 - 2);
            put(pair[1].1 - pair[1].0);
        }
        out
    }

    proptest! {
        #[test]
        fn exactly_the_acknowledged_numbers_are_covered(numbers in prop::collection::btree_set(0..80u64, 1..40)) {
            let body = encode(&numbers);
            for number in 0..90 {
                prop_assert_eq!(ack_covers(&body, number), numbers.contains(&number));
            }
        }

        #[test]
        fn any_bytes_are_searched_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..64), number in any::<u64>()) {
            let _ = ack_covers(&body, number);
        }
    }
}
