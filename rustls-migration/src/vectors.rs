//! The published test vectors (`docs/vectors.json`), made by a program that shares no code with this crate.
//!
//! An empty section fails its test.

use serde_json::Value;

/// The vectors of one section.
pub(crate) fn section(name: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(include_str!("../vectors.json")).unwrap();
    let section = vectors[name].as_array().unwrap().clone();
    assert!(!section.is_empty());
    section
}

/// The bytes that a hexadecimal string stands for.
pub(crate) fn hex(text: &Value) -> Vec<u8> {
    base16ct::lower::decode_vec(text.as_str().unwrap()).unwrap()
}
