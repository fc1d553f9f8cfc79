//! What a running node is told: by signals, and by lines on standard input.
//!
//! The end of standard input means nothing, and a node in the background does not read its terminal.

use std::io;

use demo_server::trigger::Trigger;
use rustix::process::getpgrp;
use rustix::termios::{isatty, tcgetpgrp};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that a node waits for.
pub(crate) struct Commands {
    trigger: Trigger,
    migrate: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// Begins to listen.
pub(crate) fn listen(trigger: Trigger) -> io::Result<Commands> {
    let commands = Commands {
        trigger: trigger.clone(),
        migrate: signal(SignalKind::user_defined1())?,
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    if may_read(&io::stdin()) {
        // A thread does not keep the process alive, as a task that reads standard input would.
        std::thread::Builder::new().spawn(move || read_lines(&trigger))?;
    }
    Ok(commands)
}

impl Commands {
    /// Obeys until SIGINT or SIGTERM.
    pub(crate) async fn until_told_to_stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.migrate.recv() => migrate(&self.trigger),
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
            }
        }
    }
}

/// A process in the background that reads its terminal is stopped by the system.
fn may_read(stdin: &io::Stdin) -> bool {
    !isatty(stdin) || tcgetpgrp(stdin).is_ok_and(|foreground| foreground == getpgrp())
}

fn migrate(trigger: &Trigger) {
    let live = trigger.pull();
    tracing::info!(live, "moving all live connections");
}

fn read_lines(trigger: &Trigger) {
    for line in io::stdin().lines() {
        let Ok(line) = line else { return };
        match line.trim() {
            "migrate" => migrate(trigger),
            "" => {}
            _ => tracing::warn!("the only command is: migrate"),
        }
    }
}
