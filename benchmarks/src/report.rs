//! The figures, as a table or as one JSON object.
//!
//! It judges no figure: targets are printed beside the ratios.

use std::fmt;

use serde::Serialize;

use crate::case::{Case, name};
use crate::peers::Suite;
use crate::settings::Draft;

/// Median and quartiles; a count has no quartiles.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) quartiles: Option<(f64, f64)>,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            let index = values.len().saturating_sub(1) * quarter / 4;
            values.get(index).copied().unwrap_or(f64::NAN)
        };
        Self {
            median: at(2),
            quartiles: Some((at(1), at(3))),
        }
    }

    pub(crate) fn exactly(value: f64) -> Self {
        Self {
            median: value,
            quartiles: None,
        }
    }

    /// The quartiles with so many decimals.
    pub(crate) fn range(&self, decimals: usize) -> String {
        self.quartiles.map_or_else(
            || "-".to_owned(),
            |(lower, upper)| format!("{lower:.decimals$}-{upper:.decimals$}"),
        )
    }
}

/// One comparison's figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) case: Case,
    /// For one handshake or record, in the report's unit.
    pub(crate) stock: f64,
    pub(crate) migrating: f64,
    /// The second to the first.
    pub(crate) ratio: Spread,
    pub(crate) target: f64,
}

/// One step of a migration by itself, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) ns: Spread,
}

/// All figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// "ns" or "instructions".
    unit: &'static str,
    suite: Suite,
    dialect: Draft,
    /// What the code that was measured found in the processor.
    cpu_features: Vec<String>,
    /// What the processor has, but was hidden from the code that was measured.
    cpu_features_hidden: Vec<String>,
    comparisons: Vec<Comparison>,
    pub(crate) steps: Vec<Step>,
    /// How many bytes a checkpoint is on the wire, its record included.
    pub(crate) checkpoint_bytes: Option<usize>,
}

impl Report {
    pub(crate) fn new(
        unit: &'static str,
        (suite, dialect): (Suite, Draft),
        cpu_features: Vec<String>,
    ) -> Self {
        Self {
            unit,
            suite,
            dialect,
            cpu_features,
            cpu_features_hidden: Vec::new(),
            comparisons: Vec::new(),
            steps: Vec::new(),
            checkpoint_bytes: None,
        }
    }

    /// Notes which of `all` were hidden.
    pub(crate) fn hidden(mut self, all: Vec<String>) -> Self {
        let hidden = all
            .into_iter()
            .filter(|one| !self.cpu_features.contains(one));
        self.cpu_features_hidden = hidden.collect();
        self
    }

    pub(crate) fn add(&mut self, comparison: Comparison) {
        self.comparisons.push(comparison);
    }

    fn write_comparison(&self, f: &mut fmt::Formatter<'_>, of: &Comparison) -> fmt::Result {
        write!(
            f,
            "{:<32}{:>12.0}{:>12.0}{:>8.3}  {:<11}{:>8.2}",
            name(&of.case),
            of.stock,
            of.migrating,
            of.ratio.median,
            of.ratio.range(3),
            of.target,
        )?;
        if let Some(len) = of.case.plaintext()
            && self.unit == "ns"
        {
            let per_second = |ns: f64| f64::from(u32::try_from(len).unwrap_or(0)) * 1e3 / ns;
            write!(
                f,
                "  {:.0} and {:.0} MB/s",
                per_second(of.stock),
                per_second(of.migrating)
            )?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "suite: {}", name(&self.suite))?;
        writeln!(f, "dialect: draft -{}", name(&self.dialect))?;
        writeln!(
            f,
            "processor features in use: {}",
            self.cpu_features.join(" ")
        )?;
        if !self.cpu_features_hidden.is_empty() {
            writeln!(
                f,
                "not counted, since valgrind hides them: {}",
                self.cpu_features_hidden.join(" ")
            )?;
        }
        writeln!(
            f,
            "\n{:<32}{:>12}{:>12}{:>8}  {:<11}{:>8}",
            self.unit, "stock", "migrating", "ratio", "quartiles", "target"
        )?;
        for comparison in &self.comparisons {
            self.write_comparison(f, comparison)?;
        }
        if !self.steps.is_empty() {
            writeln!(f, "\n{:<31}{:>12}  quartiles", "step", "ns")?;
        }
        for Step { name, ns } in &self.steps {
            writeln!(f, "{name:<31}{:>12.0}  {}", ns.median, ns.range(0))?;
        }
        if let Some(len) = self.checkpoint_bytes {
            writeln!(f, "\na checkpoint is {len} bytes on the wire")?;
        }
        Ok(())
    }
}
