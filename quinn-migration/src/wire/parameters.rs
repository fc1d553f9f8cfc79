//! Reading and extending a list of QUIC transport parameters (RFC 9000 section 18).
//!
//! Never interprets a value, and never changes the parameters that are already there.

use quinn_proto::VarInt;
use thiserror::Error;

use super::{Reader, put_varint};

/// The list cannot be walked to its end; the peer is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("transport parameters are cut short")]
pub struct ParametersError;

/// The value of parameter `id`, if the list has it.
///
/// # Errors
///
/// [`ParametersError`] when the list is cut short before the parameter is found.
pub fn find_parameter(list: &[u8], id: u64) -> Result<Option<&[u8]>, ParametersError> {
    let mut reader = Reader::new(list);
    while !reader.is_empty() {
        let found = reader.varint().ok_or(ParametersError)?;
        let value = reader.length_prefixed().ok_or(ParametersError)?;
        if found == id {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Appends a parameter. The value's length is that of its type: below 64 bytes, so that it takes one byte.
pub fn append_parameter<const N: usize>(list: &mut Vec<u8>, id: VarInt, value: &[u8; N]) {
    const { assert!(N < 64, "longer values need a longer length field") };
    put_varint(list, id);
    list.extend(u8::try_from(N));
    list.extend_from_slice(value);
}

/// A copy of the list in which parameter `id` has this value.
///
/// # Errors
///
/// [`ParametersError`] when the list is cut short.
pub fn replace_parameter<const N: usize>(
    list: &[u8],
    id: VarInt,
    value: &[u8; N],
) -> Result<Vec<u8>, ParametersError> {
    let mut copy = remove_parameter(list, id)?;
    append_parameter(&mut copy, id, value);
    Ok(copy)
}

/// A copy of the list without parameter `id`.
///
/// # Errors
///
/// [`ParametersError`] when the list is cut short.
pub fn remove_parameter(list: &[u8], id: VarInt) -> Result<Vec<u8>, ParametersError> {
    let mut copy = Vec::with_capacity(list.len());
    let mut reader = Reader::new(list);
    while !reader.is_empty() {
        let start = reader.position();
        let found = reader.varint().ok_or(ParametersError)?;
        reader.length_prefixed().ok_or(ParametersError)?;
        if found != id.into_inner() {
            copy.extend_from_slice(list.get(start..reader.position()).unwrap_or_default());
        }
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_appended_parameter_is_found_again(ids in prop::collection::btree_set(0..1u64 << 62, 1..8), value in any::<[u8; 9]>()) {
            let mut list = Vec::new();
            for id in &ids {
                append_parameter(&mut list, VarInt::from_u64(*id).unwrap(), &value);
            }
            for id in &ids {
                prop_assert_eq!(find_parameter(&list, *id), Ok(Some(&value[..])));
            }
        }

        #[test]
        fn a_replaced_parameter_leaves_the_others_alone(ids in prop::collection::btree_set(0..1u64 << 62, 1..8), pick in any::<prop::sample::Index>()) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let mut list = Vec::new();
            for id in &ids {
                append_parameter(&mut list, VarInt::from_u64(*id).unwrap(), &[1; 3]);
            }
            let replaced = *pick.get(&ids);
            let list = replace_parameter(&list, VarInt::from_u64(replaced).unwrap(), &[2; 5]).unwrap();
            for id in ids {
                let expected: &[u8] = if id == replaced { &[2; 5] } else { &[1; 3] };
                prop_assert_eq!(find_parameter(&list, id), Ok(Some(expected)));
            }
        }

        #[test]
        fn any_bytes_are_searched_without_a_panic(list in prop::collection::vec(any::<u8>(), 0..64), id in any::<u64>()) {
            let _ = find_parameter(&list, id);
        }
    }

    #[test]
    fn a_list_that_is_cut_short_is_an_error() {
        assert_eq!(find_parameter(&[0x20, 4, 1], 0x21), Err(ParametersError));
    }
}
