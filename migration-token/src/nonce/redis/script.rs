//! The scripts that redis runs for a store, each one atomic step, and what they ask and answer.
//!
//! A script touches one key, so that a cluster can move it. It writes nothing before it has checked the clock and judged the life of
//! the data, and it removes no nonce without noting the time of what it removed.

use redis::{Script, ScriptInvocation};
use time::OffsetDateTime;

use crate::nonce::Claim;
use crate::nonce::birth::unix_milliseconds;

/// A script's word, the moment (Unix milliseconds) since which the data remembers, and the name of its life.
pub(super) type Answer = (String, i64, String);

/// Where the scripts have the present moment from.
pub(super) const SERVER_TIME: &str = "local clock = redis.call('TIME')\n";

/// The scripts, and what they get besides a claim.
pub(super) struct Scripts {
    claim: Script,
    commit: Script,
    look: Script,
    settle: Script,
    key: String,
    margin: std::time::Duration,
    durable: bool,
}

/// What whoever asks knows of time and of the data.
pub(super) struct Asking {
    /// The present moment.
    pub(super) now: OffsetDateTime,
    /// The name of the life that it knows, and when that began by its own measure.
    pub(super) life: Option<(String, i64)>,
}

impl Scripts {
    /// The scripts for keys with this prefix. `clock` is [`SERVER_TIME`], but for tests.
    pub(super) fn new(
        prefix: &str,
        margin: std::time::Duration,
        durable: bool,
        clock: &str,
    ) -> Self {
        let script = |step: &str| Script::new(&[clock, include_str!("life.lua"), step].concat());
        Self {
            claim: script(include_str!("claim.lua")),
            commit: script(include_str!("commit.lua")),
            look: script("return {'here', since, history}"),
            settle: Script::new(include_str!("settle.lua")),
            // In a cluster the braces decide on the slot.
            key: format!("{{{prefix}}}-nonces"),
            margin,
            durable,
        }
    }

    /// Claims a nonce.
    pub(super) fn claim(&self, claim: &Claim, asking: &Asking) -> ScriptInvocation<'_> {
        // The server forgets by its own clock.
        let margin = i64::try_from(self.margin.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let mut invocation = self.step(&self.claim, "claim", Some(claim), Some(asking));
        invocation.arg(claim.last_second().saturating_add(margin));
        invocation
    }

    /// Spends a nonce.
    pub(super) fn commit(&self, claim: &Claim) -> ScriptInvocation<'_> {
        self.step(&self.commit, "commit", Some(claim), None)
    }

    /// Does nothing but to note the life of the data.
    pub(super) fn look(&self, asking: &Asking) -> ScriptInvocation<'_> {
        self.step(&self.look, "look", None, Some(asking))
    }

    /// Lets the life `history`, which was told to remember since `since`, remember since `learned`, when whoever began it
    /// learned of that.
    pub(super) fn settle(&self, history: &str, since: i64, learned: i64) -> ScriptInvocation<'_> {
        let mut invocation = self.settle.key(&self.key);
        invocation.arg(format!("{history} {since}")).arg(learned);
        invocation
    }

    fn step<'a>(
        &self,
        script: &'a Script,
        step: &str,
        claim: Option<&Claim>,
        asking: Option<&Asking>,
    ) -> ScriptInvocation<'a> {
        let margin = i64::try_from(self.margin.as_millis()).unwrap_or(i64::MAX);
        let issued_after = claim.map_or(i64::MAX, |claim| unix_milliseconds(claim.issued_after));
        let now = asking.map_or(0, |asking| unix_milliseconds(asking.now));
        let life = asking.and_then(|asking| asking.life.as_ref());
        let life = life.map(|(history, since)| format!("{history} {since}"));
        let mut invocation = script.key(&self.key);
        invocation
            .arg(step)
            .arg(issued_after)
            .arg(margin)
            .arg(if self.durable { "durable" } else { "" })
            .arg(now)
            .arg(life.unwrap_or_default());
        if let Some(claim) = claim {
            invocation
                .arg(claim.id.as_bytes())
                .arg(claim.nonce.as_bytes());
        }
        invocation
    }
}
