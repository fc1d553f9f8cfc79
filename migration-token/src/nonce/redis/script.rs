//! The scripts that redis runs for a store, each one atomic step, and what they ask and answer.
//!
//! A script touches one key, so that a cluster can move it. It writes nothing before it has checked the clock and judged the life of
//! the data, and it removes no nonce without noting the time of what it removed.

use redis::{Cmd, Script, ToRedisArgs, cmd};
use time::OffsetDateTime;

use crate::nonce::Claim;
use crate::nonce::birth::unix_milliseconds;

/// A script's word, the moment (Unix milliseconds) since which the data remembers, and the name of its life.
pub(super) type Answer = (String, i64, String);

/// Where the scripts have the present moment from.
pub(super) const SERVER_TIME: &str = "local clock = redis.call('TIME')\n";

/// A script's text and its name, which is a digest of it.
struct Lua {
    text: String,
    name: Script,
}

/// A script with what it gets.
pub(super) struct Invocation<'a> {
    lua: &'a Lua,
    key: &'a str,
    arguments: Vec<Vec<u8>>,
}

/// The scripts, and what they get besides a claim.
pub(super) struct Scripts {
    claim: Lua,
    commit: Lua,
    look: Lua,
    settle: Lua,
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

impl Lua {
    fn new(text: String) -> Self {
        let name = Script::new(&text);
        Self { text, name }
    }

    fn with<'a>(&'a self, key: &'a str) -> Invocation<'a> {
        Invocation {
            lua: self,
            key,
            arguments: Vec::new(),
        }
    }
}

impl Invocation<'_> {
    fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    /// The command for a server that knows the script.
    pub(super) fn by_name(&self) -> Cmd {
        self.command("EVALSHA", self.lua.name.get_hash())
    }

    /// The command for one that does not, which it does from then on.
    pub(super) fn by_text(&self) -> Cmd {
        self.command("EVAL", &self.lua.text)
    }

    fn command(&self, command: &str, script: &str) -> Cmd {
        let mut command = cmd(command);
        command.arg(script).arg(1).arg(self.key);
        for argument in &self.arguments {
            command.arg(argument.as_slice());
        }
        command
    }
}

impl Scripts {
    /// The scripts for keys with this prefix. `clock` is [`SERVER_TIME`], but for tests.
    pub(super) fn new(
        prefix: &str,
        margin: std::time::Duration,
        durable: bool,
        clock: &str,
    ) -> Self {
        let script = |step: &str| Lua::new([clock, include_str!("life.lua"), step].concat());
        Self {
            claim: script(include_str!("claim.lua")),
            commit: script(include_str!("commit.lua")),
            look: script("return {'here', since, name}"),
            settle: Lua::new(include_str!("settle.lua").to_owned()),
            // In a cluster the braces decide on the slot.
            key: format!("{{{prefix}}}-nonces"),
            margin,
            durable,
        }
    }

    /// The key of everything.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Claims a nonce.
    pub(super) fn claim(&self, claim: &Claim, asking: &Asking) -> Invocation<'_> {
        // The server forgets by its own clock.
        let margin = i64::try_from(self.margin.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let mut invocation = self.step(&self.claim, "claim", Some(claim), Some(asking));
        invocation.arg(claim.last_second().saturating_add(margin));
        invocation
    }

    /// Spends a nonce.
    pub(super) fn commit(&self, claim: &Claim) -> Invocation<'_> {
        self.step(&self.commit, "commit", Some(claim), None)
    }

    /// Does nothing but to note the life of the data.
    pub(super) fn look(&self, asking: &Asking) -> Invocation<'_> {
        self.step(&self.look, "look", None, Some(asking))
    }

    /// Lets the life `name`, which was told to remember since `since`, remember since `learned`, when whoever began it
    /// learned of that.
    pub(super) fn settle(&self, name: &str, since: i64, learned: i64) -> Invocation<'_> {
        let mut invocation = self.settle.with(&self.key);
        let history = name.split(':').next().unwrap_or_default();
        invocation
            .arg(format!("{history} {since} {name}"))
            .arg(learned);
        invocation
    }

    fn step<'a>(
        &'a self,
        script: &'a Lua,
        step: &str,
        claim: Option<&Claim>,
        asking: Option<&Asking>,
    ) -> Invocation<'a> {
        let margin = i64::try_from(self.margin.as_millis()).unwrap_or(i64::MAX);
        let issued_after = claim.map_or(i64::MAX, |claim| unix_milliseconds(claim.issued_after));
        let now = asking.map_or(0, |asking| unix_milliseconds(asking.now));
        let life = asking.and_then(|asking| asking.life.as_ref());
        let life = life.map(|(name, since)| format!("{name} {since}"));
        let mut invocation = script.with(&self.key);
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
