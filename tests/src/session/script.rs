//! What is said in a conversation, and how it is told to a program.

/// What is said in a conversation.
#[derive(Clone, Debug)]
pub struct Script {
    pub seed: u64,
    /// What the client writes, in bytes.
    pub uploaded: usize,
    /// What the server writes besides its answers, in bytes.
    pub pushed: usize,
    /// Whether the server answers each byte from the client with one of its own.
    pub answers: bool,
    /// The longest piece that the client writes at once, in bytes; a node's are up to a quarter longer.
    pub largest: usize,
    /// After how many bytes from the client each node but the last one tells it to move on.
    pub notify_after: usize,
    /// Whether a node tells the client to go somewhere else at first.
    pub change_of_mind: bool,
    /// After how many bytes, in and out, each node makes another checkpoint; 0 for none at all.
    pub checkpoint_every: usize,
    /// Whether a node that takes up a checkpoint begins behind what the client has, and writes none of it again.
    pub takes_number: bool,
    /// Whether the client's reading and writing are two tasks.
    pub halves: bool,
    /// Whether the client gives up waiting now and then, and begins anew.
    pub impatient: bool,
}

impl Script {
    /// How much the server says, in bytes, to a client that has written so many.
    pub fn said(&self, received: usize) -> usize {
        let answers = if self.answers { received } else { 0 };
        self.pushed + answers
    }

    /// Whether nodes tell the client to move on.
    pub(super) fn hands_over(&self) -> bool {
        self.notify_after < usize::MAX
    }
}

/// As arguments of a program.
impl Script {
    pub fn arguments(&self) -> Vec<String> {
        [
            self.uploaded,
            self.pushed,
            usize::from(self.answers),
            self.largest,
            self.notify_after,
            self.checkpoint_every,
            usize::from(self.takes_number),
        ]
        .iter()
        .map(usize::to_string)
        .chain([self.seed.to_string()])
        .collect()
    }

    /// What a node must know of a script with these arguments.
    pub fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [
            uploaded,
            pushed,
            answers,
            largest,
            notify_after,
            every,
            takes_number,
            seed,
        ] = arguments
        else {
            return None;
        };
        Some(Self {
            uploaded: uploaded.parse().ok()?,
            pushed: pushed.parse().ok()?,
            answers: answers != "0",
            largest: largest.parse().ok()?,
            notify_after: notify_after.parse().ok()?,
            checkpoint_every: every.parse().ok()?,
            takes_number: takes_number != "0",
            seed: seed.parse().ok()?,
            change_of_mind: false,
            halves: true,
            impatient: false,
        })
    }
}
