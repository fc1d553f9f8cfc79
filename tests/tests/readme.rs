//! The adoption diff of the README is the difference of two programs that are compiled.

const STOCK: &str = include_str!("../../rustls-migration/examples/stock_service.rs");
const MIGRATING: &str = include_str!("../../rustls-migration/examples/migrating_service.rs");
const README: &str = include_str!("../../README.md");

/// The lines of `text` that `other` does not have, without the header comment.
fn lines_missing_in<'a>(text: &'a str, other: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| !line.starts_with("//!"))
        .filter(|line| !other.lines().any(|found| found == *line))
        .collect()
}

/// The lines of the README's diff with this sign.
fn diff_lines(sign: char) -> Vec<&'static str> {
    let (_, diff) = README
        .split_once("```diff\n")
        .expect("the README has a diff");
    let (diff, _) = diff.split_once("```").expect("the diff ends");
    diff.lines()
        .filter_map(|line| line.strip_prefix(sign))
        .collect()
}

#[test]
fn the_adoption_diff_is_true_and_takes_less_than_ten_lines() {
    assert_eq!(
        diff_lines('-').len(),
        lines_missing_in(STOCK, MIGRATING).len()
    );
    for line in lines_missing_in(STOCK, MIGRATING) {
        assert!(diff_lines('-').contains(&line), "{line}");
    }
    let added = lines_missing_in(MIGRATING, STOCK);
    assert!(added.len() < 10);
    assert_eq!(diff_lines('+').len(), added.len());
    for line in added {
        assert!(diff_lines('+').contains(&line), "{line}");
    }
}
