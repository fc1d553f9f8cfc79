//! What a layer measures, described once: by a name after Prometheus' conventions, its labels, its unit and its meaning.
//!
//! Nothing is measured here. `docs/operating.md` has the tables.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What its number does.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What the number says, in one sentence.
    pub meaning: &'static str,
}

/// What a metric's number does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It is a distribution of times, in seconds.
    Histogram,
}

impl Metric {
    /// A number that only grows.
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        meaning: &'static str,
    ) -> Self {
        let kind = MetricKind::Counter;
        Self {
            name,
            kind,
            labels,
            meaning,
        }
    }

    /// A number that goes up and down.
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        meaning: &'static str,
    ) -> Self {
        let kind = MetricKind::Gauge;
        Self {
            name,
            kind,
            labels,
            meaning,
        }
    }

    /// A distribution of times, in seconds.
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        meaning: &'static str,
    ) -> Self {
        let kind = MetricKind::Histogram;
        Self {
            name,
            kind,
            labels,
            meaning,
        }
    }
}

/// Describes `metrics` to the recorder that is installed. To be called after it is.
pub fn describe(metrics: &[Metric]) {
    for Metric {
        name,
        kind,
        meaning,
        ..
    } in metrics
    {
        match kind {
            MetricKind::Counter => describe_counter!(*name, Unit::Count, *meaning),
            MetricKind::Gauge => describe_gauge!(*name, Unit::Count, *meaning),
            MetricKind::Histogram => describe_histogram!(*name, Unit::Seconds, *meaning),
        }
    }
}

/// A crate's metrics: a constant for each, `ALL` of them, and `describe`.
///
/// ```
/// migration_policy::metrics! {
///     MOVES = counter("moves_total", ["outcome"], "Moves, by what came of them.");
/// }
/// assert_eq!(ALL, [MOVES]);
/// ```
#[macro_export]
macro_rules! metrics {
    ($($constant:ident = $kind:ident($name:literal, $labels:expr, $meaning:literal);)*) => {
        $(pub(crate) const $constant: $crate::Metric =
            $crate::Metric::$kind($name, &$labels, $meaning);)*

        /// Everything that is measured.
        pub const ALL: &[$crate::Metric] = &[$($constant),*];

        /// Describes all of it to the recorder that is installed. Call it once, after that.
        pub fn describe() {
            $crate::describe(ALL);
        }
    };
}
