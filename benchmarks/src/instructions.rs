//! Stats instructions: this program runs itself under callgrind, with N and with 2 N units of work.
//!
//! Only the difference counts, so what a process needs to start is left out.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Output};

use crate::case::{Case, Side, name};
use crate::error::BenchError;
use crate::peers::Suite;
use crate::report::{Comparison, Report, Spread};
use crate::settings::Draft;

/// Units of work in the shorter of two runs.
const ITERATIONS: u32 = 100;
const QUICK_ITERATIONS: u32 = 1;

/// Stats each case for both sides. Callgrind's files stay in `keep`, if it is given.
pub(crate) fn count(
    cases: &[Case],
    (suite, draft): (Suite, Draft),
    quick: bool,
    keep: Option<&Path>,
) -> Result<Report, BenchError> {
    let temporary = tempfile::tempdir()?;
    let counter = Counter {
        suite,
        draft,
        iterations: if quick { QUICK_ITERATIONS } else { ITERATIONS },
        dir: keep.unwrap_or(temporary.path()),
    };
    fs::create_dir_all(counter.dir)?;
    let features = counter.features()?;
    let mut report = Report::new("instructions", (suite, draft), features).hidden(cpu_features());
    for case in cases {
        let stock = counter.per_unit(*case, Side::Stock)?;
        let migrating = counter.per_unit(*case, Side::Migrating)?;
        report.add(Comparison {
            case: *case,
            stock,
            migrating,
            ratio: Spread::exactly(migrating / stock),
            target: case.target(),
        });
    }
    Ok(report)
}

struct Counter<'a> {
    suite: Suite,
    draft: Draft,
    iterations: u32,
    dir: &'a Path,
}

impl Counter<'_> {
    /// Instructions for one unit of work.
    fn per_unit(&self, case: Case, side: Side) -> Result<f64, BenchError> {
        let once = self.total(case, side, self.iterations)?;
        let twice = self.total(case, side, 2 * self.iterations)?;
        Ok((twice - once) / f64::from(self.iterations))
    }

    /// Instructions of a whole process.
    fn total(&self, case: Case, side: Side, iterations: u32) -> Result<f64, BenchError> {
        let file = format!("callgrind.{}.{}.{iterations}", name(&case), name(&side));
        let path = self.dir.join(file);
        self.run(case, side, iterations, &path)?;
        fs::read_to_string(&path)?
            .lines()
            .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
            .ok_or(BenchError::NoCount(path))
    }

    /// The processor's features that are found under valgrind.
    fn features(&self) -> Result<Vec<String>, BenchError> {
        let path = self.dir.join("callgrind.features");
        let output = self.run(Case::Full, Side::Stock, 0, &path)?;
        let features = String::from_utf8_lossy(&output.stdout);
        Ok(features.split_whitespace().map(str::to_owned).collect())
    }

    fn run(
        &self,
        case: Case,
        side: Side,
        iterations: u32,
        path: &Path,
    ) -> Result<Output, BenchError> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--callgrind-out-file={}", path.display()))
            .arg(std::env::current_exe()?)
            .args([
                "--suite",
                &name(&self.suite),
                "--dialect",
                &name(&self.draft),
                "work",
                &name(&case),
                &name(&side),
            ])
            .arg(iterations.to_string())
            .output()
            .map_err(|error| {
                if error.kind() == io::ErrorKind::NotFound {
                    BenchError::NoValgrind
                } else {
                    error.into()
                }
            })?;
        if output.status.success() {
            Ok(output)
        } else {
            let why = String::from_utf8_lossy(&output.stderr);
            Err(BenchError::Valgrind(why.into_owned()))
        }
    }
}

/// The features of the processor that cryptography makes use of, as this process finds them.
pub(crate) fn cpu_features() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("aes", is_x86_feature_detected!("aes")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("adx", is_x86_feature_detected!("adx")),
        ("sha", is_x86_feature_detected!("sha")),
        ("vaes", is_x86_feature_detected!("vaes")),
        ("vpclmulqdq", is_x86_feature_detected!("vpclmulqdq")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("aes", std::arch::is_aarch64_feature_detected!("aes")),
        ("pmull", std::arch::is_aarch64_feature_detected!("pmull")),
        ("sha2", std::arch::is_aarch64_feature_detected!("sha2")),
        ("sha3", std::arch::is_aarch64_feature_detected!("sha3")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&str, bool); 0] = [];
    found
        .into_iter()
        .filter(|(_, found)| *found)
        .map(|(name, _)| name.to_owned())
        .collect()
}
