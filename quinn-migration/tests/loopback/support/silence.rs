//! False silences. On a busy host a client's packets may wait to be read for longer than a path may be silent: then the client goes
//! back, as it should. A test bears that, and all tests of a process together bear it a few times.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use quinn::Connection;
use quinn_migration::{Alternate, Event, MigrationServer, Migrator, Outcome};

use super::{settled, within};

/// False silences that all tests of a process may have together. There is one in some thousand moves.
const BORNE: u32 = 8;
/// Advertisements for one move at most.
const ATTEMPTS: u32 = 3;

fn bear(what: &dyn std::fmt::Debug) {
    static BORNE_SO_FAR: AtomicU32 = AtomicU32::new(0);
    let before = BORNE_SO_FAR.fetch_add(1, Ordering::SeqCst);
    assert!(before < BORNE, "too many false silences: {what:?}");
}

/// The next event but [`Event::Stranded`]: on a busy host an earlier path may take longer to answer than it has before that is
/// reported.
pub async fn returned(migrator: &mut Migrator) -> Event {
    loop {
        let event = settled(migrator).await;
        if !matches!(event, Event::Stranded { .. }) {
            return event;
        }
    }
}

/// The next event that says what became of an advertisement, and whether there was a false silence before.
pub async fn decided(migrator: &mut Migrator) -> (Event, bool) {
    let mut disturbed = false;
    loop {
        let event = returned(migrator).await;
        if !matches!(event, Event::FellBack { .. }) {
            return (event, disturbed);
        }
        bear(&event);
        disturbed = true;
    }
}

/// Advertises `alternate`, which leads to `to`, and waits until both ends say that the connection has moved. A connection that
/// went back meanwhile is told again.
pub async fn follow(
    server: &MigrationServer,
    theirs: &Connection,
    migrator: &mut Migrator,
    alternate: impl Into<Alternate>,
    to: SocketAddr,
) -> Event {
    let alternate = alternate.into();
    let mut disturbed = false;
    for _ in 0..ATTEMPTS {
        let advertised = server.advertise(theirs, alternate).await.unwrap();
        let (event, disturbed_now) = decided(migrator).await;
        disturbed |= disturbed_now;
        match event {
            Event::Migrated { to: reached, .. } if reached == to => {
                assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
                return event;
            }
            // It went back to there.
            Event::Refused { .. } if disturbed && migrator.server() == Some(to) => return event,
            Event::Failed { .. } | Event::Refused { .. } if disturbed => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("{ATTEMPTS} advertisements of {to} led nowhere");
}

/// Runs a test that demands more of a connection than that it goes on. `test` answers `false` when a false silence has spoilt
/// it; then it gets another chance.
pub async fn undisturbed<T: Future<Output = bool>>(test: impl Fn() -> T) {
    if !test().await {
        bear(&"a whole test begins anew");
        assert!(test().await, "a false silence again");
    }
}
