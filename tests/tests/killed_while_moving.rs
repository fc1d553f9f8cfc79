//! Servers that are killed with SIGKILL in the middle of a hand-over or of a recovery, and in turn, on every store: each ending has its
//! row in the table of `docs/recovery.md`, and there is never a gap or a repeat.
//!
//! `KILLED_WHILE_MOVING` in the environment says how many seeds are tried for each scenario and store, and
//! `KILLED_WHILE_MOVING_FROM` which is the first.

use std::collections::BTreeMap;
use std::time::Duration;

use migration_tests::endings::{Ending, ending};
use migration_tests::folder::ServiceFolder;
use migration_tests::hosts::Site;
use migration_tests::mortal::{Chain, enduring, from_environment, moment};
use migration_tests::redis::RedisServer;
use migration_tests::session::{Client, Random, Script, converse};
use migration_tests::{Service, server_name};
use rustls_migration::tokio::{Event, Events};
use tokio::time::timeout;

const MORTAL: &str = env!("CARGO_BIN_EXE_mortal");

/// Only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// For how long a target is dialled again that is dead.
const DIALLING: Duration = Duration::from_secs(3);

/// How many seeds hit every ending that there is.
const MANY: u64 = 60;

/// Who dies, and when. There are nodes A, B and C; each makes checkpoints for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scenario {
    /// A, when it has told the client to move to B.
    SourceOfHandOver,
    /// B, when A has told the client to move there.
    TargetOfHandOver,
    /// B, and then A: there is nobody to recover at.
    TargetBeforeRecovery,
    /// A, and B while the client is recovering there.
    TargetDuringRecovery,
    /// A, and B when the client has recovered: before or after B has made a checkpoint.
    TargetAfterRecovery,
    /// A, and B when it has made a checkpoint.
    InTurn,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario::SourceOfHandOver,
    Scenario::TargetOfHandOver,
    Scenario::TargetBeforeRecovery,
    Scenario::TargetDuringRecovery,
    Scenario::TargetAfterRecovery,
    Scenario::InTurn,
];

impl Scenario {
    fn hands_over(self) -> bool {
        matches!(self, Self::SourceOfHandOver | Self::TargetOfHandOver)
    }

    /// What may become of it.
    fn allows(self, ending: Ending) -> bool {
        match ending {
            Ending::Whole => true,
            Ending::NotConnected | Ending::SessionRefused => false,
            // What the client was told decides whether it is right.
            Ending::NoCheckpoint => self != Self::InTurn,
            Ending::SourceLost => self == Self::SourceOfHandOver,
            Ending::TargetLost => self == Self::TargetOfHandOver,
            Ending::TargetNotReached | Ending::TargetDied => matches!(
                self,
                Self::TargetBeforeRecovery | Self::TargetDuringRecovery | Self::TargetAfterRecovery
            ),
        }
    }
}

/// The seeds of one store: how often each scenario came to each ending.
#[derive(Debug, Default)]
struct Seen(BTreeMap<(Scenario, Ending), u64>);

impl Seen {
    fn hit(&self, scenario: Scenario, ending: Ending) -> bool {
        self.0.contains_key(&(scenario, ending))
    }
}

fn script(seed: u64, scenario: Scenario) -> Script {
    let mut random = Random::new(seed ^ 0x3011);
    let largest = [100, 16_384, 1 << 20][random.below(3)];
    let most = (largest * 300).min(2 << 20);
    Script {
        seed,
        uploaded: most / 2 + random.below(most / 2),
        pushed: random.below(most),
        answers: true,
        largest,
        notify_after: match scenario.hands_over() {
            true => random.below(most / 4),
            false => usize::MAX,
        },
        change_of_mind: false,
        checkpoint_every: (most / 20).clamp(1, 65_536),
        takes_number: random.once_in(3),
        halves: true,
        impatient: random.once_in(4),
    }
}

/// What the client is told, and what it was told before.
struct Told {
    events: Events,
    all: Vec<Event>,
}

impl Told {
    /// Waits for an event that is wanted. `false` when the stream is gone.
    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> bool {
        while let Some(event) = self.events.next().await {
            let found = wanted(&event);
            self.all.push(event);
            if found {
                return true;
            }
        }
        false
    }
}

/// The deaths of the scenario, unless the conversation is over before.
async fn kill(chain: &mut Chain, scenario: Scenario, told: &mut Told, random: &mut Random) {
    let usable = |event: &Event| matches!(event, Event::Checkpoint { usable: true, .. });
    let first = match scenario {
        Scenario::SourceOfHandOver | Scenario::TargetOfHandOver => {
            told.until(|event| matches!(event, Event::Notified { .. }))
                .await
        }
        Scenario::TargetBeforeRecovery
        | Scenario::TargetDuringRecovery
        | Scenario::TargetAfterRecovery
        | Scenario::InTurn => told.until(usable).await,
    };
    if !first {
        return;
    }
    let (now, soon) = (Duration::ZERO, moment(random));
    match scenario {
        Scenario::SourceOfHandOver => chain.kill_soon(0, soon).await,
        Scenario::TargetOfHandOver => chain.kill_soon(1, soon).await,
        Scenario::TargetBeforeRecovery => {
            chain.kill_soon(1, soon).await;
            chain.kill_soon(0, now).await;
        }
        Scenario::TargetDuringRecovery => {
            // A recovery takes some milliseconds.
            let later = Duration::from_micros(u64::try_from(random.below(8000)).unwrap());
            let (a, b) = (chain.kill_soon(0, soon), chain.kill_soon(1, soon + later));
            tokio::join!(a, b);
        }
        Scenario::TargetAfterRecovery => {
            chain.kill_soon(0, soon).await;
            let recovered = |event: &Event| matches!(event, Event::Recovered(_));
            if told.until(recovered).await {
                // B makes its checkpoint at once, so some must come very early.
                let most = 1 << random.below(12);
                let soon = Duration::from_micros(u64::try_from(random.below(most)).unwrap());
                chain.kill_soon(1, soon).await;
            }
        }
        Scenario::InTurn => {
            chain.kill_soon(0, soon).await;
            let recovered = |event: &Event| matches!(event, Event::Recovered(_));
            if told.until(recovered).await && told.until(usable).await {
                chain.kill_soon(1, moment(random)).await;
            }
        }
    }
}

async fn one_seed(
    seed: u64,
    scenario: Scenario,
    service: &Service,
    folder: &ServiceFolder,
    stores: impl Fn(usize) -> String,
) -> Ending {
    let script = script(seed, scenario);
    let sites = vec![Site::here(MORTAL); 3];
    let mut chain = Chain::start(&sites, folder, stores, &script).await;
    let dialling = match scenario {
        // Nobody is waited for in vain.
        Scenario::SourceOfHandOver | Scenario::InTurn => PATIENCE / 2,
        Scenario::TargetOfHandOver
        | Scenario::TargetBeforeRecovery
        | Scenario::TargetDuringRecovery
        | Scenario::TargetAfterRecovery => DIALLING,
    };
    let connector = enduring(service).connect_timeout(dialling);
    let connected = connector.connect(server_name(), chain.first()).await;
    let stream = connected.unwrap();
    let mut told = Told {
        events: stream.events(),
        all: Vec::new(),
    };
    let client = {
        let script = script.clone();
        tokio::spawn(async move { converse(&script, stream).await })
    };
    let mut random = Random::new(seed ^ 0x9222);
    let whole = async {
        kill(&mut chain, scenario, &mut told, &mut random).await;
        told.until(|_| false).await;
        client.await.unwrap()
    };
    let client = timeout(PATIENCE, whole).await;
    let client: Client =
        client.unwrap_or_else(|_| panic!("seed {seed} of {scenario:?} hangs after {:?}", told.all));
    chain.end().await;
    let ended = ending(&client, &told.all);
    let ended = ended.unwrap_or_else(|why| panic!("seed {seed} of {scenario:?}: {why}"));
    assert!(
        scenario.allows(ended),
        "seed {seed} of {scenario:?}: {ended:?} after {:?}",
        told.all
    );
    if ended == Ending::Whole {
        let all = (script.uploaded, script.said(script.uploaded));
        assert_eq!((client.written, client.read), all, "seed {seed}");
    }
    ended
}

/// Each node but the first, which nobody comes to with a token, has the store that `name` says for its place.
async fn end_as_documented(what: &str, name: impl Fn(&str, usize) -> String) {
    let mut service = Service::default();
    let folder = ServiceFolder::new(&mut service);
    let mut seen = Seen::default();
    let first = from_environment("KILLED_WHILE_MOVING_FROM", 0);
    let seeds = from_environment("KILLED_WHILE_MOVING", 2);
    for seed in first..first + seeds {
        for scenario in SCENARIOS {
            let stores = |here| name(&format!("{seed}-{scenario:?}"), here);
            let ended = one_seed(seed, scenario, &service, &folder, stores).await;
            *seen.0.entry((scenario, ended)).or_default() += 1;
        }
    }
    println!("{what}: {:?}", seen.0);
    if seeds >= MANY {
        let reached = [
            (Scenario::SourceOfHandOver, Ending::Whole),
            (Scenario::TargetOfHandOver, Ending::TargetLost),
            (Scenario::TargetBeforeRecovery, Ending::TargetNotReached),
            (Scenario::TargetDuringRecovery, Ending::TargetNotReached),
            (Scenario::TargetDuringRecovery, Ending::TargetDied),
            (Scenario::TargetAfterRecovery, Ending::NoCheckpoint),
            (Scenario::TargetAfterRecovery, Ending::Whole),
            (Scenario::InTurn, Ending::Whole),
        ];
        for (scenario, ending) in reached {
            assert!(seen.hit(scenario, ending), "{scenario:?}, {ending:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_while_a_stream_moves_the_ending_is_documented_with_stores_in_memory() {
    end_as_documented("memory", |_, _| "memory".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_while_a_stream_moves_the_ending_is_documented_with_stores_in_files() {
    let stores = tempfile::tempdir().unwrap();
    let path = stores.path().display().to_string();
    end_as_documented("file", |case, here| format!("file:{path}/{case}-{here}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_while_a_stream_moves_the_ending_is_documented_with_a_shared_redis_store() {
    let server = RedisServer::start(&[]).await;
    let store = format!("redis://{}", server.address());
    end_as_documented("redis", |_, _| store.clone()).await;
}
