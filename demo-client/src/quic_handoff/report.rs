//! What is printed about the moves of a QUIC connection: lines to read, or one JSON object.
//!
//! What is off is said in both, and makes the program fail.

use std::io::{self, Write as _};
use std::time::Duration;

use demo_server::program::Failure;
use indicatif::HumanCount;
use serde::Serialize;

use super::Hop;
use super::flow::Transfer;

pub(super) struct Report {
    pub(super) transfer: Transfer,
    pub(super) hops: Vec<Hop>,
}

/// Times are in microseconds, and the worst of all moves.
#[derive(Serialize)]
struct Json<'a> {
    /// What arrived, in both directions together.
    bytes: u64,
    /// Of what arrived. Both directions carry the same; if one of them is wrong, it is the wrong one.
    sha256: &'a str,
    sha256_expected: &'a str,
    hops: usize,
    advertisements: u32,
    old_path_datagrams_after_move: u64,
    validation_us: u128,
    stall_us: u128,
    /// The longest time without data when nothing moved: what the machine does by itself.
    stall_without_move_us: u128,
    problems: &'a [String],
}

impl Report {
    /// Prints it.
    ///
    /// # Errors
    ///
    /// [`Failure::Wrong`] when anything is off.
    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        let problems = self.problems();
        let text = match json {
            true => self.json(&problems)?,
            false => self.text(),
        };
        io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::wrong("cannot print", &error))?;
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Failure::Wrong(problems.join("; "))),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let Transfer { sent, received } = &self.transfer;
        if sent != received || sent[0] != sent[1] {
            problems.push("what arrived is not what was sent".to_owned());
        }
        for hop in &self.hops {
            if !hop.arrived {
                problems.push(format!("the client is not at {}", hop.to));
            }
            if hop.old_path_datagrams > 0 {
                problems.push(format!(
                    "{} is still in use after the move to {}",
                    hop.from, hop.to
                ));
            }
        }
        problems
    }

    /// The checksum to show: a wrong one, if there is one.
    fn sha256(&self) -> (&str, &str) {
        let Transfer { sent, received } = &self.transfer;
        let expected = sent[0].sha256.as_str();
        let wrong = received.iter().find(|sum| sum.sha256 != expected);
        (wrong.map_or(expected, |sum| &sum.sha256), expected)
    }

    fn bytes(&self) -> u64 {
        self.transfer.received.iter().map(|sum| sum.bytes).sum()
    }

    fn json(&self, problems: &[String]) -> Result<String, Failure> {
        let worst = |time: fn(&Hop) -> Duration| {
            let times = self.hops.iter().map(time);
            times.max().unwrap_or_default().as_micros()
        };
        let (sha256, sha256_expected) = self.sha256();
        let object = Json {
            bytes: self.bytes(),
            sha256,
            sha256_expected,
            hops: self.hops.len(),
            advertisements: self.hops.iter().map(|hop| hop.advertisements).sum(),
            old_path_datagrams_after_move: self.hops.iter().map(|hop| hop.old_path_datagrams).sum(),
            validation_us: worst(|hop| hop.validation),
            stall_us: worst(|hop| hop.stall),
            stall_without_move_us: worst(|hop| hop.stall_before),
            problems,
        };
        serde_json::to_string(&object)
            .map(|line| line + "\n")
            .map_err(|error| Failure::wrong("cannot print", &error))
    }

    fn text(&self) -> String {
        let micros = |time: Duration| {
            let count = HumanCount(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
            format!("{count} µs")
        };
        let line = |hop: &Hop| {
            let (from, to) = (hop.from, hop.to);
            let validation = micros(hop.validation);
            let (stall, before) = (micros(hop.stall), micros(hop.stall_before));
            format!(
                "{from} to {to}  validated in {validation}, longest gap in the data {stall} ({before} before)"
            )
        };
        let mut lines: Vec<String> = self.hops.iter().map(line).collect();
        let (sha256, expected) = self.sha256();
        let verdict = match sha256 == expected {
            true => "as expected",
            false => "WRONG",
        };
        lines.push(String::new());
        lines.push(format!("bytes   {}", HumanCount(self.bytes())));
        lines.push(format!("sha256  {sha256}, {verdict}"));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::super::flow::Sum;
    use super::*;

    fn report(received: &str, late: u64, arrived: bool) -> Report {
        let sum = |sha256: &str| Sum {
            bytes: 3,
            sha256: sha256.to_owned(),
        };
        Report {
            transfer: Transfer {
                sent: [sum("aa"), sum("aa")],
                received: [sum("aa"), sum(received)],
            },
            hops: vec![Hop {
                from: "127.0.0.2:1".parse().unwrap(),
                to: "127.0.0.3:1".parse().unwrap(),
                arrived,
                advertisements: 1,
                validation: Duration::ZERO,
                stall: Duration::ZERO,
                stall_before: Duration::ZERO,
                old_path_datagrams: late,
            }],
        }
    }

    #[test]
    fn whatever_is_off_is_a_problem() {
        assert_eq!(report("aa", 0, true).problems(), Vec::<String>::new());
        for off in [
            report("bb", 0, true),
            report("aa", 1, true),
            report("aa", 0, false),
        ] {
            assert_eq!(off.problems().len(), 1);
        }
        assert_eq!(report("bb", 0, true).sha256(), ("bb", "aa"));
    }
}
