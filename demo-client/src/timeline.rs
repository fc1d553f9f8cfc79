//! A download as a timeline to read.
//!
//! It shows what happened; whether that was right, the report says.

use std::time::Duration;

use indicatif::HumanCount;

use crate::download::{Download, Recoveries};
use crate::legs::{Leg, Migration, Trigger};
use crate::replay::Replay;
use crate::report::{kind, outcome};

/// The timeline, with a line's end after each line.
pub(crate) fn of(download: &Download, replay: Option<&Replay>) -> String {
    let mut lines = Vec::new();
    for (index, leg) in download.legs.iter().enumerate() {
        let next = download.legs.get(index + 1);
        lines.extend(leg_lines(leg, next, download));
    }
    let verdict = match download.is_intact() {
        true => "as expected",
        false => "WRONG",
    };
    lines.push(String::new());
    lines.push(format!("bytes   {}", HumanCount(download.bytes())));
    lines.push(format!("sha256  {}, {verdict}", download.sha256));
    if let Some(uploaded) = &download.uploaded {
        let verdict = match uploaded.is_intact() {
            true => "as expected",
            false => "WRONG",
        };
        let bytes = HumanCount(uploaded.bytes);
        lines.push(format!(
            "upload  {bytes} bytes, {}, {verdict}",
            uploaded.sha256
        ));
    }
    if let Some(recoveries) = &download.recoveries {
        let Recoveries {
            recovered,
            resent,
            discarded,
        } = recoveries;
        lines.push(format!(
            "deaths  {recovered} survived, {resent} bytes sent again, {discarded} left out"
        ));
    }
    if let Some(replay) = replay {
        let (outcome, arrival) = (outcome(replay), &replay.arrival);
        lines.push(format!("replay  {outcome}: the used token was presented again, and the node reports {arrival:?}"));
    }
    lines.join("\n") + "\n"
}

fn leg_lines(leg: &Leg, next: Option<&Leg>, download: &Download) -> Vec<String> {
    let (took, uploads) = (download.took, download.uploaded.is_some());
    let server = leg.server;
    let handshake = kind(leg.handshake);
    let early_data = match (&leg.migration, leg.early_data) {
        (None, _) => "",
        (Some(_), true) if uploads => ", with early data",
        (Some(_), true) => ", the request as early data",
        (Some(_), false) => ", no early data",
    };
    let mut lines = vec![line(
        leg.connected,
        format!("{server}  {handshake} handshake{early_data}"),
    )];
    if let Some(migration) = &leg.migration
        && let (Some(first_byte), Some(waited)) = (migration.first_byte, migration.waited())
    {
        let waited = HumanCount(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        lines.push(line(
            first_byte,
            format!("{server}  first byte, {waited} µs after the trigger"),
        ));
    }
    let bytes = HumanCount(leg.bytes);
    lines.push(match next.and_then(|next| next.migration.as_ref()) {
        None => line(took, format!("{server}  {bytes} bytes, the end")),
        Some(Migration {
            trigger, triggered, ..
        }) => {
            let why = match trigger {
                Trigger::Notify | Trigger::Request => trigger.name(),
                Trigger::Client => "the client's own decision to move",
                Trigger::Death => "its death",
            };
            line(*triggered, format!("{server}  {bytes} bytes, then {why}"))
        }
    });
    lines
}

fn line(at: Duration, what: String) -> String {
    format!("{:>10.3} ms  {what}", at.as_secs_f64() * 1000.0)
}
