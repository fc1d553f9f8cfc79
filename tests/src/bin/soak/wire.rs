//! What the clients and the nodes of a long run say to each other: a plan, and then bytes whose value their position decides.
//!
//! A byte that is lost or repeated moves all that follow it, so that it never goes unseen.

use migration_tests::session::Random;

/// An upload is acknowledged by one byte for so many.
const BLOCK: u64 = 16_384;

/// An upload's receipt, in bytes.
const RECEIPT: u64 = 16;

/// A service that a stream asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    /// Each byte is answered by one.
    Echo,
    /// Blocks are acknowledged, and the end by a receipt.
    Upload,
    /// The node pushes.
    Download,
    /// Each request is answered by a response.
    Requests,
}

/// How a stream follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// Handed over; the client's application does not notice.
    Drain,
    /// The client's application goes over when the target is ready.
    Overlap,
    /// The client's application leaves at once, and says where to go on.
    Manual,
    /// The node does not consent: the conversation goes on over the client's next connection.
    Successor,
}

/// What one stream is to do. It goes to each node that has no state of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) id: u64,
    pub(crate) service: Service,
    pub(crate) mode: Mode,
    /// Whether the node's application consents that the stream goes on elsewhere.
    pub(crate) consent: bool,
    /// What the client writes in all, in bytes.
    pub(crate) up: u64,
    /// The length of a request.
    pub(crate) request: u64,
    /// The length of a response, or of a download.
    pub(crate) response: u64,
}

/// A plan, and how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) plan: Plan,
    /// What has been sent to the nodes.
    pub(crate) up: u64,
    /// What the nodes have sent.
    pub(crate) down: u64,
}

impl Plan {
    /// A plan that the dice decide.
    pub(crate) fn random(id: u64, random: &mut Random) -> Self {
        let mode = [Mode::Drain, Mode::Overlap, Mode::Manual, Mode::Successor][random.below(4)];
        let services = [
            Service::Echo,
            Service::Upload,
            Service::Requests,
            Service::Download,
        ];
        // A client that goes over by overlap must know where the old node ends.
        let service = services[random.below(if mode == Mode::Overlap { 3 } else { 4 })];
        let order = 12 + random.below(11);
        let size = number(random.below(1 << order)) + 1;
        let request = number(random.below(3000)) + 1;
        let consent = match mode {
            Mode::Drain | Mode::Overlap => true,
            Mode::Manual => random.once_in(2),
            Mode::Successor => false,
        };
        Self {
            id,
            service,
            mode,
            consent,
            up: match service {
                Service::Echo | Service::Upload => size,
                Service::Download => 0,
                Service::Requests => request * (number(random.below(400)) + 1),
            },
            request,
            response: match service {
                Service::Requests => number(random.below(8000)) + 1,
                Service::Echo | Service::Upload | Service::Download => size,
            },
        }
    }

    /// A short exchange over a connection that is there anyway.
    pub(crate) fn errand(id: u64, mode: Mode) -> Self {
        Self {
            id,
            service: Service::Requests,
            mode,
            consent: false,
            up: 300,
            request: 100,
            response: 1000,
        }
    }

    /// How much the nodes may have sent in all when they have received `up`.
    pub(crate) fn down_after(&self, up: u64) -> u64 {
        match self.service {
            Service::Echo => up,
            Service::Upload => up / BLOCK + if up == self.up { RECEIPT } else { 0 },
            Service::Download => self.response,
            Service::Requests => up / self.request * self.response,
        }
    }

    /// How much the nodes are known to have received when they have sent `down`.
    pub(crate) fn up_known_by(&self, down: u64) -> u64 {
        match self.service {
            Service::Echo => down,
            Service::Upload => (down * BLOCK).min(self.up / BLOCK * BLOCK),
            Service::Download => 0,
            Service::Requests => down / self.response * self.request,
        }
    }

    /// All that the nodes send.
    pub(crate) fn down(&self) -> u64 {
        self.down_after(self.up)
    }
}

impl Position {
    pub(crate) const LEN: usize = 59;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let plan = &self.plan;
        let service = match plan.service {
            Service::Echo => 0,
            Service::Upload => 1,
            Service::Download => 2,
            Service::Requests => 3,
        };
        let mode = match plan.mode {
            Mode::Drain => 0,
            Mode::Overlap => 1,
            Mode::Manual => 2,
            Mode::Successor => 3,
        };
        let mut encoded = vec![service, mode, u8::from(plan.consent)];
        let numbers = [
            plan.id,
            plan.up,
            plan.request,
            plan.response,
            self.up,
            self.down,
            // Says that what stands before it is no piece of anything else.
            plan.id ^ self.up ^ self.down,
        ];
        encoded.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        encoded
    }

    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        let (&[service, mode, consent], numbers) = encoded.split_first_chunk()?;
        let (numbers, []) = numbers.as_chunks::<8>() else {
            return None;
        };
        let numbers: Vec<u64> = numbers.iter().map(|n| u64::from_be_bytes(*n)).collect();
        let [id, plan_up, request, response, up, down, check] = *numbers else {
            return None;
        };
        let plan = Plan {
            id,
            service: match service {
                0 => Service::Echo,
                1 => Service::Upload,
                2 => Service::Download,
                _ => Service::Requests,
            },
            mode: match mode {
                0 => Mode::Drain,
                1 => Mode::Overlap,
                2 => Mode::Manual,
                _ => Mode::Successor,
            },
            consent: consent == 1,
            up: plan_up,
            request,
            response,
        };
        (check == id ^ up ^ down).then_some(Self { plan, up, down })
    }
}

/// One direction of one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// The `len` bytes of a stream from `start` on.
pub(crate) fn content(id: u64, direction: Direction, start: u64, len: usize) -> Vec<u8> {
    let salt: u64 = match direction {
        Direction::Up => 0x9e37_79b9_7f4a_7c15,
        Direction::Down => 0xc2b2_ae3d_27d4_eb4f,
    };
    let key = (id + 1).wrapping_mul(salt);
    (start..start + number(len))
        .map(|at| {
            let mut word = (at / 8 + 1).wrapping_mul(key);
            word ^= word >> 29;
            word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word ^= word >> 32;
            word.to_be_bytes()[usize::try_from(at % 8).unwrap()]
        })
        .collect()
}

/// A length as a position.
pub(crate) fn number(len: usize) -> u64 {
    u64::try_from(len).unwrap()
}

/// A number of bytes that is left, as much of it as goes at once.
pub(crate) fn at_most(left: u64, len: usize) -> usize {
    usize::try_from(left).map_or(len, |left| left.min(len))
}
