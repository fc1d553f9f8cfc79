//! Documents name what there is: the adoption diff of the README is the difference of two programs that are compiled, and
//! SECURITY.md names tests that exist.

const STOCK: &str = include_str!("../../rustls-migration/examples/stock_service.rs");
const MIGRATING: &str = include_str!("../../rustls-migration/examples/migrating_service.rs");
const README: &str = include_str!("../../README.md");
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");
const SECURITY: &str = include_str!("../../SECURITY.md");

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

/// ARCHITECTURE.md gives paths from the top, and those of the TLS layer from its `src`.
#[test]
fn every_path_that_the_architecture_names_exists() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let paths = ARCHITECTURE.split('`').skip(1).step_by(2);
    let paths: Vec<_> = paths.filter(|name| name.contains('/')).collect();
    assert!(paths.len() > 10);
    for path in paths {
        let places = [top.join(path), top.join("rustls-migration/src").join(path)];
        let is_there = places.iter().any(|place| place.exists());
        assert!(is_there, "{path}");
    }
}

/// The tests that a row of a table names, each with its file: `one`, `another` (`file.rs`).
fn named_tests(row: &'static str) -> Vec<(&'static str, &'static str)> {
    let shown_by = row.trim_end_matches('|').rsplit('|').next().unwrap();
    let (mut tests, mut waiting) = (Vec::new(), Vec::new());
    for name in shown_by.split('`').skip(1).step_by(2) {
        if name.ends_with(".rs") {
            tests.extend(waiting.drain(..).map(|test| (test, name)));
        } else {
            waiting.push(name);
        }
    }
    assert!(waiting.is_empty(), "no file for {waiting:?}");
    tests
}

#[test]
fn the_tests_that_are_said_to_show_what_is_promised_exist() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    // A file of a crate is named from the workspace's root, but for those of the forwarder in its own table.
    let forwarder = [
        "../quic-forwarder/src",
        "../quic-forwarder/tests/forwarding",
    ];
    let others = forwarder.map(|folder| tests.join(folder));
    let folders = [vec![tests.join("tests"), tests.join("..")], others.to_vec()].concat();
    let tables = SECURITY.split("| adversary | promised | not promised | shown by |\n");
    let rows = tables.skip(1).flat_map(|table| {
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        rows.filter(|row| row.starts_with("| "))
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() >= 8, "a row for each adversary");
    for row in rows {
        let tests = named_tests(row);
        assert_eq!(tests.is_empty(), row.contains("| none"), "{row}");
        for (test, file) in tests {
            let mut paths = folders.iter().map(|folder| folder.join(file));
            let path = paths.find(|path| path.exists()).expect(file);
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.contains(&format!("fn {test}(")), "{test} in {file}");
        }
    }
}
