//! A connection to the target of the newest checkpoint, dialled ahead: a recovery takes a round trip less by it.
//!
//! Nothing is said over it before there is a recovery, and what becomes of it never touches the stream.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::address::canonical;
use crate::client::Checkpoint;
use crate::tokio::client::dialer::Preconnected;
use crate::tokio::client::error::ConnectError;
use crate::tokio::client::event::Event;
use crate::tokio::client::handle::Control;
use crate::tokio::client::phase::Step;
use crate::tokio::client::relocation::unresolved;

/// How long to wait before a target is dialled again that could not be reached, or that closed the connection soon: at first, and
/// at most. All that a stream loses meanwhile is the round trip that it would save.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// A target that kept a connection for so long has only lost patience with a client that says nothing, and takes another one.
const KEPT: Duration = Duration::from_secs(5);

/// The connection that is dialled ahead, if there is anything to dial.
#[derive(Default)]
pub(in crate::tokio::client) struct Ahead(Option<Towards>);

/// On the way to one target, or there.
struct Towards {
    target: Target,
    state: State,
    retry_in: Duration,
}

/// Where a checkpoint leads.
#[derive(Clone, PartialEq, Eq)]
enum Target {
    Address(SocketAddr),
    /// In draft -03: what is to be resolved.
    Name(Vec<u8>),
}

enum State {
    Dialling(Step<Result<Preconnected, NotReached>>),
    Open(Preconnected),
    /// Until it is dialled again.
    Waiting(Pin<Box<Sleep>>),
    /// The client does not go there.
    Refused,
}

/// Why a target was not reached.
enum NotReached {
    /// The policy does not let the client go there.
    Refused,
    Unresolved,
    Dial(SocketAddr, ConnectError),
}

impl Target {
    fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let name = || checkpoint.unresolved().map(<[u8]>::to_vec).map(Self::Name);
        checkpoint.target().map(Self::Address).or_else(name)
    }

    fn is_of(&self, checkpoint: &Checkpoint) -> bool {
        match self {
            Self::Address(address) => checkpoint.target() == Some(*address),
            Self::Name(name) => checkpoint.unresolved() == Some(name),
        }
    }

    /// Connects to it. The policy is asked before anything is dialled: of an address it has been when the checkpoint came.
    async fn reach(self, control: Arc<Control>) -> Result<Preconnected, NotReached> {
        let dialer = &control.dialer;
        let address = match self {
            Self::Address(address) => address,
            Self::Name(name) => {
                let current = control.address();
                let resolved = dialer.resolver.resolve(&name, current).await;
                let address = resolved.map_err(|error| {
                    let _ = unresolved(&error);
                    NotReached::Unresolved
                })?;
                let address = canonical(address);
                let allowed = dialer.client().policy().allow(current, address);
                allowed.map_err(|_| NotReached::Refused)?;
                address
            }
        };
        let opened = dialer.open(address).await;
        opened.map_err(|error| NotReached::Dial(address, error))
    }
}

impl Ahead {
    /// Sees to a connection to where `checkpoint` leads. Without one there is none.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        checkpoint: Option<&Checkpoint>,
        control: &Arc<Control>,
    ) {
        let here = |towards: &Towards| checkpoint.is_some_and(|at| towards.target.is_of(at));
        if !self.0.as_ref().is_some_and(here) {
            let target = checkpoint.and_then(Target::of);
            self.0 = target.map(|target| Towards::new(target, control));
        }
        if let Some(towards) = &mut self.0 {
            // It goes on for as long as there is something to go to.
            let _ = towards.poll(cx, control);
        }
    }

    /// The connection to where `checkpoint` leads, if there is one.
    pub(super) fn take(&mut self, checkpoint: &Checkpoint) -> Option<Preconnected> {
        let towards = self.0.take()?;
        match towards.state {
            State::Open(preconnected) if towards.target.is_of(checkpoint) => Some(preconnected),
            State::Open(_) | State::Dialling(_) | State::Waiting(_) | State::Refused => None,
        }
    }
}

impl Towards {
    fn new(target: Target, control: &Arc<Control>) -> Self {
        let (retry_in, _) = RETRY;
        Self {
            state: State::Dialling(Box::pin(target.clone().reach(Arc::clone(control)))),
            target,
            retry_in,
        }
    }

    /// Never ready: it dials, keeps what it has dialled, and dials again.
    fn poll(&mut self, cx: &mut Context<'_>, control: &Arc<Control>) -> Poll<()> {
        loop {
            self.state = match &mut self.state {
                State::Dialling(dial) => match ready!(dial.as_mut().poll(cx)) {
                    Ok(preconnected) => State::Open(preconnected),
                    Err(NotReached::Refused) => State::Refused,
                    Err(NotReached::Unresolved) => self.wait().0,
                    Err(NotReached::Dial(target, error)) => {
                        let (state, retry_in) = self.wait();
                        let why = Arc::new(error);
                        let unreachable = Event::TargetUnreachable {
                            target,
                            why,
                            retry_in,
                        };
                        control.tell(unreachable, None);
                        state
                    }
                },
                State::Open(preconnected) => {
                    ready!(preconnected.poll_closed(cx));
                    if preconnected.age() >= KEPT {
                        (self.retry_in, _) = RETRY;
                    }
                    self.wait().0
                }
                State::Waiting(time) => {
                    ready!(time.as_mut().poll(cx));
                    let reach = self.target.clone().reach(Arc::clone(control));
                    State::Dialling(Box::pin(reach))
                }
                State::Refused => return Poll::Pending,
            };
        }
    }

    /// Waits, and longer the next time. Returns for how long.
    fn wait(&mut self) -> (State, Duration) {
        let ((_, longest), retry_in) = (RETRY, self.retry_in);
        self.retry_in = (retry_in * 2).min(longest);
        (State::Waiting(Box::pin(sleep(retry_in))), retry_in)
    }
}
