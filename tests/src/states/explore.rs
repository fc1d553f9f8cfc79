//! Explores every course, on all processors: from each new state one goes on at once, and the others later.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use super::oracle::Outcome;
use super::run::Run;
use super::{Choice, Setting};
use crate::world::paused;

/// What was found.
#[derive(Debug, Default)]
pub struct Explored {
    /// How many states there are; 0 when nobody has counted them.
    pub states: usize,
    /// How many courses were run, in part or to their end.
    pub runs: usize,
    /// What came of those that went to their end, and of how many.
    pub outcomes: BTreeMap<Outcome, usize>,
    /// The longest course, in choices.
    pub longest: usize,
    pub violation: Option<Violation>,
}

/// What must not be, and how it came to that.
#[derive(Clone, Debug)]
pub struct Violation {
    pub what: String,
    pub course: Vec<Choice>,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            states,
            runs,
            longest,
            ..
        } = self;
        write!(
            f,
            "{states} states, {runs} courses of at most {longest} choices"
        )?;
        for (outcome, count) in &self.outcomes {
            write!(f, "\n  {count:6} {outcome}")?;
        }
        Ok(())
    }
}

/// Courses that are still to be taken up.
#[derive(Default)]
struct Frontier {
    courses: Vec<Vec<Choice>>,
    /// How many are being run.
    busy: usize,
    stopped: bool,
}

struct Exploration<'s> {
    setting: &'s Setting,
    frontier: Mutex<Frontier>,
    changed: Condvar,
    seen: Mutex<HashSet<u64>>,
    runs: AtomicUsize,
    found: Mutex<Explored>,
}

/// Explores all states. Stops at the first violation.
pub fn explore(setting: &Setting) -> Explored {
    let exploration = Exploration {
        setting,
        frontier: Mutex::new(Frontier {
            courses: vec![Vec::new()],
            ..Frontier::default()
        }),
        changed: Condvar::new(),
        seen: Mutex::default(),
        runs: AtomicUsize::new(0),
        found: Mutex::default(),
    };
    let threads = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| exploration.work());
        }
    });
    let mut found = exploration.found.into_inner().unwrap();
    found.states = exploration.seen.into_inner().unwrap().len();
    found.runs = exploration.runs.into_inner();
    found
}

impl Exploration<'_> {
    fn work(&self) {
        while let Some(course) = self.next() {
            self.runs.fetch_add(1, Ordering::Relaxed);
            let mut course = course;
            let ran = paused().block_on(self.follow(&mut course));
            let mut found = self.found.lock().unwrap();
            found.longest = found.longest.max(course.len());
            match ran {
                Ok(Some(outcome)) => {
                    *found.outcomes.entry(outcome).or_default() += 1;
                }
                Ok(None) => {}
                Err(what) => found.violation = Some(Violation { what, course }),
            }
            let mut frontier = self.frontier.lock().unwrap();
            frontier.busy -= 1;
            frontier.stopped |= found.violation.is_some();
            self.changed.notify_all();
        }
    }

    /// The next course to take up; `None` when there are no more.
    fn next(&self) -> Option<Vec<Choice>> {
        let mut frontier = self.frontier.lock().unwrap();
        loop {
            if frontier.stopped {
                return None;
            }
            if let Some(course) = frontier.courses.pop() {
                frontier.busy += 1;
                return Some(course);
            }
            if frontier.busy == 0 {
                return None;
            }
            frontier = self.changed.wait(frontier).unwrap();
        }
    }

    /// Goes on from the end of a course to a state that was seen before, or to the end of everything.
    async fn follow(&self, course: &mut Vec<Choice>) -> Result<Option<Outcome>, String> {
        let mut run = Run::new(self.setting).await;
        for choice in &*course {
            if !run.choices().contains(choice) {
                return Err(format!("the same course led elsewhere before {choice:?}"));
            }
            run.choose(*choice).await?;
        }
        loop {
            if !self.seen.lock().unwrap().insert(run.fingerprint()) {
                return Ok(None);
            }
            let choices = run.choices();
            let Some((first, others)) = choices.split_first() else {
                return run.finish().await.map(Some);
            };
            {
                let mut frontier = self.frontier.lock().unwrap();
                frontier.courses.extend(others.iter().map(|other| {
                    let mut course = course.clone();
                    course.push(*other);
                    course
                }));
            }
            self.changed.notify_all();
            course.push(*first);
            run.choose(*first).await?;
        }
    }
}
