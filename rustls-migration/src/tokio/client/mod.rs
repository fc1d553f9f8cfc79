//! The client's wing: a connector opens streams; a stream moves when the application says so, or by itself.

mod connector;
mod dialer;
mod error;
mod event;
mod hand_off;
mod handle;
mod idle_timeout;
mod migrate;
mod outcome;
mod phase;
mod recovery;
mod relocation;
mod stream;
mod transport;

pub use self::connector::{HandOff, MigrationConnector};
pub use self::dialer::Preconnected;
pub use self::error::{ConnectError, HandOffError, MigrateError};
pub use self::event::{Event, Events};
pub use self::handle::{Cork, StreamHandle};
pub use self::outcome::{EarlyDataOutcome, FallBackReason, MigrationOutcome, RecoveryOutcome};
pub use self::recovery::PastWindow;
pub use self::relocation::{ResolveTarget, TextTargets};
pub use self::stream::MigrationStream;
pub use self::transport::{Dial, TcpDialer, Transport};
