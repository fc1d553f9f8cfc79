//! Where a request ends.

/// Why what came is no request. The client is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request is longer than {max} bytes")]
pub struct RequestTooLong {
    /// How long it may be, in bytes.
    pub max: usize,
}

/// Requests that are lines, of at most `max` bytes with their end: for [`Conversation::request`](super::Conversation::request).
pub fn lines(max: usize) -> impl FnMut(&[u8]) -> Result<Option<usize>, RequestTooLong> {
    move |bytes| {
        let end = bytes.iter().take(max).position(|byte| *byte == b'\n');
        match end {
            Some(end) => Ok(Some(end + 1)),
            None if bytes.len() >= max => Err(RequestTooLong { max }),
            None => Ok(None),
        }
    }
}

/// Requests behind their length, four bytes in network order: a request is the four bytes and what follows them, of which there are
/// at most `max`. For [`Conversation::request`](super::Conversation::request).
pub fn length_delimited(max: usize) -> impl FnMut(&[u8]) -> Result<Option<usize>, RequestTooLong> {
    move |bytes| {
        let Some((len, _)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
        match len <= max {
            true => Ok(len.checked_add(size_of::<u32>())),
            false => Err(RequestTooLong { max }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_behind_its_end_and_is_not_too_long() {
        let mut lines = lines(4);
        assert_eq!(lines(b"ab"), Ok(None));
        assert_eq!(lines(b"abc\nd"), Ok(Some(4)));
        assert_eq!(lines(b"abcd\n"), Err(RequestTooLong { max: 4 }));
        assert_eq!(lines(b"abcd"), Err(RequestTooLong { max: 4 }));
    }

    #[test]
    fn a_length_says_where_a_request_ends_before_that_has_come() {
        let mut frame = length_delimited(300);
        assert_eq!(frame(&[0, 0, 1]), Ok(None));
        assert_eq!(frame(&[0, 0, 1, 44]), Ok(Some(304)));
        assert_eq!(frame(&[0, 0, 1, 45]), Err(RequestTooLong { max: 300 }));
        assert_eq!(frame(&[255; 4]), Err(RequestTooLong { max: 300 }));
    }
}
