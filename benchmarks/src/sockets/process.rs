//! A child process that is spoken to line by line, and what a process takes of the machine.
//!
//! A child ends with the handle to it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{self, ChildStdin, ChildStdout, Command, Stdio};

use crate::error::BenchError;

/// Microseconds of one tick of the kernel's accounts, a hundredth of a second on Linux.
const TICK_US: f64 = 10_000.0;

/// What a process has taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Memory, in bytes.
    pub(super) bytes: f64,
    /// Processor time, in microseconds.
    pub(super) cpu_us: f64,
}

impl Sample {
    /// Of this process.
    pub(super) fn take() -> Result<Self, BenchError> {
        const FAULT: BenchError = BenchError::Unexpected("the kernel keeps accounts");
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: Option<f64> = resident
            .and_then(|line| line.split_whitespace().next())
            .and_then(|kib| kib.parse().ok());
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The name may have anything in it, so what counts comes after its bracket.
        let (_, fields) = stat.rsplit_once(')').ok_or(FAULT)?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
        Ok(Self {
            bytes: kib.ok_or(FAULT)? * 1024.0,
            cpu_us: ticks * TICK_US,
        })
    }
}

/// One of this program's own commands as a process.
pub(super) struct Child {
    process: process::Child,
    said: BufReader<ChildStdout>,
    told: ChildStdin,
}

impl Child {
    pub(super) fn start(arguments: &[&str]) -> Result<Self, BenchError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (said, told) = (process.stdout.take(), process.stdin.take());
        let (said, told) = said
            .zip(told)
            .ok_or(BenchError::Unexpected("a child has pipes"))?;
        Ok(Self {
            process,
            said: BufReader::new(said),
            told,
        })
    }

    /// What it says next.
    pub(super) fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        if self.said.read_line(&mut line)? == 0 {
            return Err(BenchError::Unexpected("a child goes on"));
        }
        Ok(line.trim_end().to_owned())
    }

    pub(super) fn tell(&mut self, command: &str) -> Result<(), BenchError> {
        writeln!(self.told, "{command}")?;
        Ok(())
    }

    /// Its answer to a command.
    pub(super) fn ask(&mut self, command: &str) -> Result<String, BenchError> {
        self.tell(command)?;
        self.line()
    }

    pub(super) fn sample(&mut self) -> Result<Sample, BenchError> {
        let answer = self.ask("sample")?;
        let numbers = answer.split_whitespace().map(str::parse);
        let numbers: Result<Vec<f64>, _> = numbers.collect();
        match numbers.as_deref() {
            Ok([bytes, cpu_us]) => Ok(Sample {
                bytes: *bytes,
                cpu_us: *cpu_us,
            }),
            Ok(_) | Err(_) => Err(BenchError::Unexpected("a sample has two numbers")),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says a line to whoever started this process.
pub(super) fn say(line: &str) -> Result<(), BenchError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Says what this process takes.
pub(super) fn say_sample() -> Result<(), BenchError> {
    let sample = Sample::take()?;
    say(&format!("{} {}", sample.bytes, sample.cpu_us))
}
