//! What is said in conversations whose every byte is known, and the chance that decides their course.

/// Random numbers that a seed decides (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// From `0` to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.bits() % end).unwrap()
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// One of the two streams of bytes.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    FromClient,
    FromServer,
}

impl Content {
    fn byte(self, position: usize) -> u8 {
        let salt = match self {
            Self::FromClient => 0x51_7c_c1,
            Self::FromServer => 0x27_22_0a,
        };
        let mixed = (position + salt).wrapping_mul(2_654_435_761);
        mixed.to_be_bytes()[5]
    }

    /// The bytes from `start` on.
    pub fn piece(self, start: usize, len: usize) -> Vec<u8> {
        (start..start + len).map(|at| self.byte(at)).collect()
    }

    /// Whether these are the bytes from `start` on.
    pub fn is_at(self, start: usize, bytes: &[u8]) -> bool {
        bytes
            .iter()
            .enumerate()
            .all(|(i, byte)| *byte == self.byte(start + i))
    }
}
