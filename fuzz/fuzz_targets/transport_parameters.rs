//! A list of transport parameters, as a peer may send it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quinn_migration::Codepoints;
use quinn_migration::wire::{append_parameter, find_parameter};

fuzz_target!(|list: &[u8]| {
    let parameter = Codepoints::default().parameter();
    if let Ok(found) = find_parameter(list, parameter.into_inner()) {
        let mut longer = list.to_vec();
        append_parameter(&mut longer, parameter, &[7]);
        // The first one counts, and a well-formed list stays well-formed.
        let expected = found.unwrap_or(&[7]);
        assert_eq!(
            find_parameter(&longer, parameter.into_inner()),
            Ok(Some(expected))
        );
    }
});
