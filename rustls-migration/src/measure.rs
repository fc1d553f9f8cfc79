//! How a fact is measured where it happens: by the crate `metrics`, with the feature of that name, and not at all without.
//!
//! `crate::metrics` names what is measured.

/// Counts one: `count!(ARRIVALS, "verdict" => name)`.
macro_rules! count {
    ($metric:ident $(, $label:literal => $value:expr)*) => {{
        #[cfg(feature = "metrics")]
        ::metrics::counter!(crate::metrics::$metric.name $(, $label => $value)*).increment(1);
        #[cfg(not(feature = "metrics"))]
        { $(let _ = &$value;)* }
    }};
}

/// Sets how much there is, or changes it: `gauge!(CONNECTIONS, increment 1.0)`.
#[cfg(any(feature = "metrics", feature = "tokio"))]
macro_rules! gauge {
    ($metric:ident $(, $label:literal => $value:expr)*, $change:ident $by:expr) => {{
        #[cfg(feature = "metrics")]
        ::metrics::gauge!(crate::metrics::$metric.name $(, $label => $value)*).$change($by);
        #[cfg(not(feature = "metrics"))]
        {
            $(let _ = &$value;)*
            let _ = &$by;
        }
    }};
}

/// Takes down how long something took: `time!(STALL, since begun)`.
#[cfg(feature = "tokio")]
macro_rules! time {
    ($metric:ident $(, $label:literal => $value:expr)*, since $begun:expr) => {{
        #[cfg(feature = "metrics")]
        ::metrics::histogram!(crate::metrics::$metric.name $(, $label => $value)*)
            .record($begun.elapsed().as_secs_f64());
        #[cfg(not(feature = "metrics"))]
        {
            $(let _ = &$value;)*
            let _ = &$begun;
        }
    }};
}

/// A number as gauges have it.
#[cfg(any(feature = "metrics", feature = "tokio"))]
pub(crate) fn number(number: impl TryInto<u64>) -> f64 {
    let number = number.try_into().unwrap_or(u64::MAX);
    let half = |half| u32::try_from(half).map_or(0.0, f64::from);
    half(number >> 32) * 2f64.powi(32) + half(number & u64::from(u32::MAX))
}

pub(crate) use count;
#[cfg(any(feature = "metrics", feature = "tokio"))]
pub(crate) use gauge;
#[cfg(feature = "tokio")]
pub(crate) use time;
