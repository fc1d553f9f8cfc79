//! The scripts that redis runs for a store, each one atomic step, and what they ask and answer.
//!
//! A script touches two keys in one hash slot. It writes no nonce before it has judged the life of the data.

use redis::{Script, ScriptInvocation};
use time::{Duration, OffsetDateTime};

use crate::nonce::Claim;

/// A script's word, and the moment (Unix milliseconds) at which the life of the data began.
pub(super) type Answer = (String, i64);

/// The scripts, and what they get besides a claim.
pub(super) struct Scripts {
    claim: Script,
    commit: Script,
    look: Script,
    prefix: String,
    margin: std::time::Duration,
    durable: bool,
}

impl Scripts {
    pub(super) fn new(prefix: String, margin: std::time::Duration, durable: bool) -> Self {
        let script = |step: &str| Script::new(&[include_str!("life.lua"), step].concat());
        Self {
            claim: script(include_str!("claim.lua")),
            commit: script(include_str!("commit.lua")),
            look: script("return {'here', born}"),
            prefix,
            margin,
            durable,
        }
    }

    /// Claims a nonce, at the moment `now`.
    pub(super) fn claim(&self, claim: &Claim, now: OffsetDateTime) -> ScriptInvocation<'_> {
        let mut invocation = self.begin(&self.claim, claim);
        invocation
            .arg(milliseconds(now))
            // Rounded up.
            .arg(milliseconds(claim.keep_until).saturating_add(1));
        invocation
    }

    /// Spends a nonce.
    pub(super) fn commit(&self, claim: &Claim) -> ScriptInvocation<'_> {
        self.begin(&self.commit, claim)
    }

    /// Does nothing but to note the life of the data.
    pub(super) fn look(&self) -> ScriptInvocation<'_> {
        self.with(&self.look, b"", b"", i64::MAX)
    }

    fn begin<'a>(&self, script: &'a Script, claim: &Claim) -> ScriptInvocation<'a> {
        self.with(
            script,
            claim.nonce.as_bytes(),
            claim.id.as_bytes(),
            milliseconds(claim.issued_after),
        )
    }

    fn with<'a>(
        &self,
        script: &'a Script,
        nonce: &[u8],
        id: &[u8],
        issued_after: i64,
    ) -> ScriptInvocation<'a> {
        // The braces make one hash slot of both keys in a cluster.
        let mut nonce_key = format!("{{{}}}:", self.prefix).into_bytes();
        nonce_key.extend_from_slice(nonce);
        let mut invocation = script.key(nonce_key);
        invocation
            .key(format!("{{{}}}-born", self.prefix))
            .arg(id)
            .arg(issued_after)
            .arg(i64::try_from(self.margin.as_millis()).unwrap_or(i64::MAX))
            .arg(if self.durable { "durable" } else { "" });
        invocation
    }
}

fn milliseconds(moment: OffsetDateTime) -> i64 {
    let since_epoch: Duration = moment - OffsetDateTime::UNIX_EPOCH;
    i64::try_from(since_epoch.whole_milliseconds()).unwrap_or(i64::MAX)
}
