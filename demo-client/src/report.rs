//! What is printed about a download: a timeline to read, or one JSON object.
//!
//! What is off is said in both, and makes the program fail.

use std::io::{self, Write as _};

use demo_server::program::Failure;
use rustls::HandshakeKind;
use serde::Serialize;

use crate::download::{Download, Recoveries, Uploaded};
use crate::legs::{Leg, Migration};
use crate::options::Mode;
use crate::replay::Replay;
use crate::timeline;

/// A download, and what became of the used token if it was presented again.
pub(crate) struct Report<'a> {
    pub(crate) download: &'a Download,
    /// How a hand-off was made; `None` for a download from servers that are not this program's.
    pub(crate) mode: Option<Mode>,
    /// Whether every further server is expected to accept early data.
    pub(crate) early_data: bool,
    pub(crate) replay: Option<&'a Replay>,
    /// What is off besides.
    pub(crate) problems: Vec<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    bytes: u64,
    sha256: &'a str,
    sha256_expected: &'a str,
    #[serde(flatten)]
    upload: Option<JsonUpload<'a>>,
    #[serde(flatten)]
    recoveries: Option<Recoveries>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    hops: usize,
    legs: Vec<JsonLeg>,
    trigger: Option<&'static str>,
    trigger_to_first_byte_us: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<&'static str>,
    problems: &'a [String],
}

#[derive(Serialize)]
struct JsonUpload<'a> {
    uploaded: u64,
    upload_sha256: &'a str,
    upload_sha256_expected: &'a str,
}

#[derive(Serialize)]
struct JsonLeg {
    server: String,
    handshake: &'static str,
    early_data: bool,
    bytes: u64,
    /// Of the hop to this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    stall_us: Option<u128>,
}

impl Report<'_> {
    /// Prints it.
    ///
    /// # Errors
    ///
    /// [`Failure::Wrong`] when anything is off.
    pub(crate) fn print(mut self, json: bool) -> Result<(), Failure> {
        self.find_problems();
        let text = match json {
            true => self.json()?,
            false => timeline::of(self.download, self.replay),
        };
        io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::wrong("cannot print", &error))?;
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(Failure::Wrong(self.problems.join("; "))),
        }
    }

    fn find_problems(&mut self) {
        let download = self.download;
        let problems = &mut self.problems;
        if download.bytes() != download.header.size {
            problems.push("the length is wrong".to_owned());
        }
        if !download.is_intact() {
            problems.push("the checksum is wrong".to_owned());
        }
        if download.uploaded.as_ref().is_some_and(|up| !up.is_intact()) {
            problems.push("the upload is wrong".to_owned());
        }
        for leg in &download.legs {
            let Some(migration) = &leg.migration else {
                continue;
            };
            if let Some(reason) = &migration.fell_back {
                problems.push(format!("back at {}: {reason}", leg.server));
            } else if leg.handshake != HandshakeKind::Resumed {
                problems.push(format!("the session was not resumed at {}", leg.server));
            } else if self.early_data && !leg.early_data {
                problems.push(format!("{} accepted no early data", leg.server));
            }
        }
        match self.replay {
            Some(replay) if replay.resumed => {
                problems.push("the used token was accepted again".to_owned());
            }
            Some(replay) if !replay.is_refused() => {
                let arrival = &replay.arrival;
                problems.push(format!("the used token met another answer: {arrival:?}"));
            }
            Some(_) | None => {}
        }
    }

    fn json(&self) -> Result<String, Failure> {
        let download = self.download;
        let moved = download.legs.iter().find_map(|leg| leg.migration.as_ref());
        let object = Json {
            bytes: download.bytes(),
            sha256: &download.sha256,
            sha256_expected: &download.header.sha256,
            upload: download.uploaded.as_ref().map(JsonUpload::from),
            recoveries: download.recoveries,
            mode: self.mode.map(Mode::name),
            hops: download.legs.len().saturating_sub(1),
            legs: download.legs.iter().map(JsonLeg::from).collect(),
            trigger: moved.map(|migration| migration.trigger.name()),
            trigger_to_first_byte_us: moved
                .and_then(Migration::waited)
                .map(|waited| waited.as_micros()),
            replay: self.replay.map(outcome),
            problems: &self.problems,
        };
        serde_json::to_string(&object)
            .map(|line| line + "\n")
            .map_err(|error| Failure::wrong("cannot print", &error))
    }
}

impl<'a> From<&'a Uploaded> for JsonUpload<'a> {
    fn from(uploaded: &'a Uploaded) -> Self {
        Self {
            uploaded: uploaded.bytes,
            upload_sha256: &uploaded.sha256,
            upload_sha256_expected: &uploaded.sha256_expected,
        }
    }
}

impl From<&Leg> for JsonLeg {
    fn from(leg: &Leg) -> Self {
        Self {
            server: leg.server.to_string(),
            handshake: kind(leg.handshake),
            early_data: leg.early_data,
            bytes: leg.bytes,
            stall_us: leg.migration.as_ref().map(|hop| hop.stall.as_micros()),
        }
    }
}

/// How a handshake is called.
pub(crate) fn kind(handshake: HandshakeKind) -> &'static str {
    match handshake {
        HandshakeKind::Resumed => "resumed",
        HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => "full",
    }
}

/// What became of a used token, in a word.
pub(crate) fn outcome(replay: &Replay) -> &'static str {
    match replay.resumed {
        true => "accepted",
        false => "refused",
    }
}
