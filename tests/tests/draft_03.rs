//! The suite of moves in draft -03 alone (`docs/protocol.md` section 10).

mod moves;
