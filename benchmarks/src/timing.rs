//! Wall-clock time by turns: short slices of the two sides, many rounds.
//!
//! A ratio is only ever taken between two slices that ran next to each other, since the machine changes its pace.

use std::time::{Duration, Instant};

use crate::case::Case;
use crate::error::BenchError;
use crate::report::{Comparison, Spread};
use crate::workload::Workload;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many pairs of slices.
    rounds: u32,
    /// How long one slice should take.
    slice: Duration,
}

impl Plan {
    pub(crate) const FULL: Self = Self {
        rounds: 201,
        slice: Duration::from_millis(10),
    };
    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        slice: Duration::ZERO,
    };

    /// How often `run` fits in a slice.
    fn iterations(self, run: &mut Workload) -> Result<u32, BenchError> {
        let mut iterations = 1;
        while slice(run, iterations)? * f64::from(iterations) < self.slice.as_secs_f64() * 1e9 {
            iterations *= 2;
        }
        Ok(iterations)
    }
}

/// Runs the two sides by turns.
pub(crate) fn compare(
    plan: Plan,
    case: Case,
    mut stock: Workload,
    mut migrating: Workload,
) -> Result<Comparison, BenchError> {
    let iterations = plan.iterations(&mut stock)?;
    // The other side warms up as well.
    slice(&mut migrating, iterations)?;
    let (mut stock_ns, mut migrating_ns, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let (a, b) = if round % 2 == 0 {
            let a = slice(&mut stock, iterations)?;
            (a, slice(&mut migrating, iterations)?)
        } else {
            let b = slice(&mut migrating, iterations)?;
            (slice(&mut stock, iterations)?, b)
        };
        stock_ns.push(a);
        migrating_ns.push(b);
        ratios.push(b / a);
    }
    Ok(Comparison {
        case,
        stock: Spread::of(stock_ns).median,
        migrating: Spread::of(migrating_ns).median,
        ratio: Spread::of(ratios),
        target: case.target(),
    })
}

/// Runs one side alone.
pub(crate) fn measure(plan: Plan, mut run: Workload) -> Result<Spread, BenchError> {
    let iterations = plan.iterations(&mut run)?;
    let slices: Result<_, _> = (0..plan.rounds)
        .map(|_| slice(&mut run, iterations))
        .collect();
    Ok(Spread::of(slices?))
}

/// Nanoseconds for one run, over a slice of `iterations`.
fn slice(run: &mut Workload, iterations: u32) -> Result<f64, BenchError> {
    let start = Instant::now();
    for _ in 0..iterations {
        run()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(iterations))
}
