//! Presentations of nonces to a store by a process of their own: the program `present`, and how tests run it.
//!
//! A store that one process owns is presented to by other processes over a socket to its owner.

use std::collections::BTreeSet;
use std::sync::Arc;

use migration_token::{Claim, ClaimId, ClaimOutcome, CommitOutcome, NonceKey, NonceStore};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::program::Program;

/// One connection's nonce, by number, and the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Presentation {
    pub nonce: u64,
    pub id: u64,
}

impl Presentation {
    /// As a store wants it, now.
    pub fn claim(self) -> Claim {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.id.to_be_bytes());
        let now = OffsetDateTime::now_utc();
        Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &self.nonce.to_be_bytes()),
            id: ClaimId::new(id),
            issued_after: now,
            keep_until: now + Duration::HOUR,
            now,
        }
    }
}

const CLAIM: u8 = 0;
const COMMIT: u8 = 1;

/// Where presentations go.
pub enum Counter {
    /// A store of this process.
    Store(Arc<dyn NonceStore>),
    /// The process that owns the store.
    Owner(TcpStream),
}

impl Counter {
    pub async fn claim(&mut self, presentation: Presentation) -> ClaimOutcome {
        match self {
            Self::Store(store) => store.claim(presentation.claim()).await.unwrap(),
            Self::Owner(owner) => match ask(owner, CLAIM, presentation).await {
                0 => ClaimOutcome::First,
                1 => ClaimOutcome::Pending,
                _ => ClaimOutcome::Committed,
            },
        }
    }

    pub async fn commit(&mut self, presentation: Presentation) -> CommitOutcome {
        match self {
            Self::Store(store) => store.commit(presentation.claim()).await.unwrap(),
            Self::Owner(owner) => match ask(owner, COMMIT, presentation).await {
                0 => CommitOutcome::Won,
                _ => CommitOutcome::Lost,
            },
        }
    }
}

async fn ask(owner: &mut TcpStream, step: u8, asked: Presentation) -> u8 {
    let mut question = vec![step];
    question.extend(asked.nonce.to_be_bytes());
    question.extend(asked.id.to_be_bytes());
    owner.write_all(&question).await.unwrap();
    owner.read_u8().await.unwrap()
}

/// Answers for a store to other processes, for ever.
pub async fn answer_for(store: Arc<dyn NonceStore>, listener: TcpListener) {
    loop {
        let (other, _) = listener.accept().await.unwrap();
        tokio::spawn(answer(Counter::Store(Arc::clone(&store)), other));
    }
}

async fn answer(mut counter: Counter, mut other: TcpStream) {
    other.set_nodelay(true).unwrap();
    // Until the other has had enough.
    while let Ok(step) = other.read_u8().await {
        let nonce = other.read_u64().await.unwrap();
        let id = other.read_u64().await.unwrap();
        let presentation = Presentation { nonce, id };
        let answer = match step {
            CLAIM => match counter.claim(presentation).await {
                ClaimOutcome::First => 0,
                ClaimOutcome::Pending => 1,
                ClaimOutcome::Committed => 2,
            },
            _ => match counter.commit(presentation).await {
                CommitOutcome::Won => 0,
                CommitOutcome::Lost => 1,
            },
        };
        other.write_u8(answer).await.unwrap();
    }
}

/// What a process presents.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of the first nonce.
    pub from: u64,
    /// How many nonces.
    pub nonces: u64,
    /// How often each.
    pub times: u64,
    /// How many presentations are under way at a time.
    pub tasks: u64,
    /// Whether nonces with an odd number are claimed and never committed.
    pub leave_odd: bool,
}

impl Plan {
    /// Starts the program `present`, as built at `program`, on a store by name.
    pub async fn start(self, program: &str, store: &str) -> Program {
        let numbers = [self.from, self.nonces, self.times, self.tasks];
        let mut arguments = vec![store.to_owned()];
        arguments.extend(numbers.map(|number| number.to_string()));
        arguments.push(self.leave_odd.to_string());
        Program::start(program, arguments)
    }

    /// Reads what [`start`](Self::start) has put on the command line, behind the name of the store.
    pub fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [from, nonces, times, tasks, leave_odd] = arguments else {
            return None;
        };
        Some(Self {
            from: from.parse().ok()?,
            nonces: nonces.parse().ok()?,
            times: times.parse().ok()?,
            tasks: tasks.parse().ok()?,
            leave_odd: leave_odd.parse().ok()?,
        })
    }
}

/// What a process was told: which connections were first and which won.
#[derive(Debug, Default)]
pub struct Told {
    pub first: BTreeSet<Presentation>,
    pub won: BTreeSet<Presentation>,
}

impl Told {
    /// Adds what the program `present` has said. Its last line may be cut off.
    pub fn add(&mut self, output: &str) {
        let whole = output.rsplit_once('\n').map_or("", |(lines, _)| lines);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let told = match words[..] {
                ["first", ..] => &mut self.first,
                ["won", ..] => &mut self.won,
                _ => continue,
            };
            let [nonce, id] = [words[1], words[2]].map(|number| number.parse().unwrap());
            assert!(told.insert(Presentation { nonce, id }), "{line}, twice");
        }
    }
}
