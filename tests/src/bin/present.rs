//! `present STORE FROM NONCES TIMES TASKS LEAVE_ODD`: presents nonces to a store, and prints at once whenever it is told
//! that it is the first or has won.
//!
//! STORE is `memory`, `file:PATH`, `redis://HOST:PORT`, or the address of another such process that owns the store. An owner prints its
//! address, waits for a line before it begins and for the end of its input before it ends.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use migration_tests::named_store;
use migration_tests::presentations::{Counter, Plan, Presentation, answer_for};
use migration_token::{ClaimOutcome, CommitOutcome, NonceStore};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (store, plan) = arguments.split_first().expect("a store");
    let plan = Plan::from_arguments(plan).expect("FROM NONCES TIMES TASKS LEAVE_ODD");
    let store = open(store).await;

    let mut counters = Vec::new();
    match &store {
        Store::Own(store) => {
            let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
            say(format_args!("listening {}", listener.local_addr().unwrap()));
            tokio::spawn(answer_for(Arc::clone(store), listener));
            counters.extend((0..plan.tasks).map(|_| Counter::Store(Arc::clone(store))));
        }
        Store::At(owner) => {
            for _ in 0..plan.tasks {
                let owner = TcpStream::connect(owner).await.unwrap();
                owner.set_nodelay(true).unwrap();
                counters.push(Counter::Owner(owner));
            }
        }
    }
    say(format_args!("ready"));
    let mut input = BufReader::new(tokio::io::stdin());
    input.read_line(&mut String::new()).await.unwrap();

    let next = Arc::new(AtomicU64::new(0));
    let mut tasks: JoinSet<()> = counters
        .into_iter()
        .map(|counter| present(counter, plan, Arc::clone(&next)))
        .collect();
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    say(format_args!("presented {}", plan.nonces * plan.times));
    // Others may still present to it.
    input.read_to_end(&mut Vec::new()).await.unwrap();
}

enum Store {
    Own(Arc<dyn NonceStore>),
    At(String),
}

async fn open(name: &str) -> Store {
    match named_store::open(name).await {
        Some(store) => Store::Own(store),
        None => Store::At(name.to_owned()),
    }
}

/// Takes presentations in order until there are no more. All that are under way are for the same few nonces.
async fn present(mut counter: Counter, plan: Plan, next: Arc<AtomicU64>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.nonces * plan.times {
            return;
        }
        let presentation = Presentation {
            nonce: plan.from + number / plan.times,
            id: u64::from(std::process::id()) << 32 | number,
        };
        let Presentation { nonce, id } = presentation;
        if counter.claim(presentation).await == ClaimOutcome::First {
            say(format_args!("first {nonce} {id}"));
        }
        if plan.leave_odd && nonce % 2 == 1 {
            continue;
        }
        if counter.commit(presentation).await == CommitOutcome::Won {
            say(format_args!("won {nonce} {id}"));
        }
    }
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
