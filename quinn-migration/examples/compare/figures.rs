//! Medians and quantiles.

pub(super) fn median(values: &[f64]) -> f64 {
    quantile(values, 1, 2)
}

pub(super) fn quantile(values: &[f64], numerator: usize, denominator: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(last * numerator / denominator)
        .copied()
        .unwrap_or(f64::NAN)
}
