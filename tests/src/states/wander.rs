//! Random courses within bounds that are too large to be explored. Nothing is left out since it was seen before, so that a state which
//! is not what it seems does not stay unseen.

use std::ops::Range;

use super::run::Run;
use super::{Choice, Explored, Outcome, Setting, Violation};
use crate::session::Random;
use crate::world::paused;

/// Follows a course to its end for each of these seeds. Stops at the first violation.
pub fn wander(setting: &Setting, seeds: Range<u64>) -> Explored {
    let mut found = Explored::default();
    for seed in seeds {
        let mut course = Vec::new();
        let ran = paused().block_on(follow(setting, Random::new(seed), &mut course));
        found.runs += 1;
        found.longest = found.longest.max(course.len());
        match ran {
            Ok(outcome) => *found.outcomes.entry(outcome).or_default() += 1,
            Err(what) => {
                found.violation = Some(Violation { what, course });
                break;
            }
        }
    }
    found
}

async fn follow(
    setting: &Setting,
    mut random: Random,
    course: &mut Vec<Choice>,
) -> Result<Outcome, String> {
    let mut run = Run::new(setting).await;
    loop {
        let choices = run.choices();
        let Some(choice) = choices.get(random.below(choices.len())) else {
            return run.finish().await;
        };
        // Ends of any kind come seldom, or there would be little before them.
        let ends = matches!(choice, Choice::Die(..) | Choice::Close | Choice::End(_));
        if ends && !random.once_in(12) {
            continue;
        }
        course.push(*choice);
        run.choose(*choice).await?;
    }
}
