//! Within which bounds is explored: each of these asks for something, and is small enough to be explored to its end.

use rustls_migration::tokio::PastWindow;

use super::Bounds;
use crate::Spoken;

/// What is explored in a minute or so.
pub const SHORT: [(&str, Bounds); 18] = [
    ("a server dies", both(FROM_START)),
    ("two servers die, and the client writes", writes(TWO_DEATHS)),
    ("two servers die, and they write", sends(TWO_DEATHS)),
    ("a server dies in a hand-over", writes(HAND_OVER)),
    ("a server takes its checkpoint back", writes(RETREAT)),
    ("nothing is delivered for long", writes(SILENCE)),
    ("applications end too early", sends(EARLY_ENDS)),
    ("a server dies, and applications hesitate", writes(HESITANT)),
    ("a server dies, in draft -03", sends(DRAFT_03)),
    ("the window is full, and is given up", GIVEN_UP),
    ("the window is full, and writes wait", alive(WAITED_FOR)),
    (
        "the window is full in a hand-over, and writes wait",
        alive(WAITED_FOR_BETWEEN),
    ),
    (
        "a server takes its checkpoint back, and writes wait",
        alive(WAITED_FOR_BACK),
    ),
    ("a server dies within a hand-over", HANDED_BY_RECORD_ALONE),
    ("a server dies within what it takes back", BACK_BY_RECORD),
    ("source and target overlap", sends(alive(OVERLAP_ALONE))),
    (
        "what a server has said arrives after its death",
        writes(LATE),
    ),
    ("a server's notice arrives after its death", LATE_NOTICE),
];

/// What takes longer.
pub const LONG: [(&str, Bounds); 21] = [
    ("a server dies, and all is twice", TWICE),
    ("two servers die", both(TWO_DEATHS)),
    ("a server dies in a hand-over", both(HAND_OVER)),
    (
        "two servers die in hand-overs, and the client writes",
        writes(TWO_HAND_OVERS),
    ),
    (
        "two servers die in hand-overs, and they write",
        sends(TWO_HAND_OVERS),
    ),
    ("a server takes its checkpoint back", both(RETREAT)),
    ("nothing is delivered for long", both(SILENCE)),
    ("applications end too early", both(EARLY_ENDS)),
    ("applications hesitate", both(HESITANT)),
    ("two servers die, in draft -03", both(DRAFT_03)),
    ("a server dies within a hand-over", writes(HANDED_BY_RECORD)),
    ("source or target dies while they overlap", OVERLAP),
    (
        "source and target overlap, and the client writes",
        writes(OVERLAP),
    ),
    ("source and target overlap, and they write", sends(OVERLAP)),
    (
        "source and target overlap, and there is a third",
        writes(alive(OVERLAP_TO_THIRD)),
    ),
    (
        "a server dies within what it takes back",
        both(BACK_BY_RECORD),
    ),
    ("what a server has said arrives after its death", both(LATE)),
    (
        "a server's notice arrives after its death, and it writes",
        sends(LATE_NOTICE_TWICE),
    ),
    ("the window is full, and is given up", GIVEN_UP_TWICE),
    ("the window is full, and writes wait", WAITED_FOR),
    (
        "the window is full in a hand-over, and writes wait",
        WAITED_FOR_BETWEEN,
    ),
];

/// Where some courses are tried.
pub const LARGE: Bounds = Bounds {
    nodes: 4,
    written: 4,
    sent: 4,
    checkpoints: 3,
    deaths: 3,
    tells: 2,
    retreats: 1,
    by_record: true,
    late: true,
    ..HESITANT
};

const DEATH: Bounds = Bounds {
    checkpoints: 1,
    deaths: 1,
    ..Bounds::NONE
};

const FROM_START: Bounds = Bounds {
    from_start: true,
    ..DEATH
};

const TWICE: Bounds = Bounds {
    written: 2,
    sent: 2,
    checkpoints: 2,
    ..DEATH
};

const TWO_DEATHS: Bounds = Bounds {
    nodes: 3,
    deaths: 2,
    ..DEATH
};

const HAND_OVER: Bounds = Bounds { tells: 1, ..DEATH };

const TWO_HAND_OVERS: Bounds = Bounds {
    tells: 2,
    ..TWO_DEATHS
};

const RETREAT: Bounds = Bounds {
    retreats: 1,
    ..DEATH
};

const SILENCE: Bounds = Bounds {
    deaths: 0,
    silences: 1,
    ..DEATH
};

const GIVEN_UP: Bounds = Bounds {
    window: Some((1, PastWindow::GiveUp)),
    written: 2,
    ..FROM_START
};

const GIVEN_UP_TWICE: Bounds = Bounds {
    from_start: false,
    checkpoints: 2,
    ..GIVEN_UP
};

const WAITED_FOR: Bounds = Bounds {
    window: Some((1, PastWindow::Wait)),
    ..GIVEN_UP_TWICE
};

const WAITED_FOR_BETWEEN: Bounds = Bounds {
    from_start: true,
    checkpoints: 1,
    tells: 1,
    ..WAITED_FOR
};

const WAITED_FOR_BACK: Bounds = Bounds {
    checkpoints: 1,
    retreats: 1,
    ..WAITED_FOR
};

const HANDED_BY_RECORD: Bounds = Bounds {
    by_record: true,
    ..HAND_OVER
};

const HANDED_BY_RECORD_ALONE: Bounds = Bounds {
    checkpoints: 0,
    ..HANDED_BY_RECORD
};

const OVERLAP: Bounds = Bounds {
    overlap: true,
    ..HAND_OVER
};

const OVERLAP_ALONE: Bounds = Bounds {
    checkpoints: 0,
    ..OVERLAP
};

const OVERLAP_TO_THIRD: Bounds = Bounds {
    nodes: 3,
    ..OVERLAP
};

const BACK_BY_RECORD: Bounds = Bounds {
    by_record: true,
    ..RETREAT
};

const LATE: Bounds = Bounds {
    late: true,
    ..FROM_START
};

const LATE_NOTICE: Bounds = Bounds { tells: 1, ..LATE };

const LATE_NOTICE_TWICE: Bounds = Bounds {
    checkpoints: 2,
    ..LATE_NOTICE
};

const EARLY_ENDS: Bounds = Bounds {
    early_ends: true,
    ..FROM_START
};

const HESITANT: Bounds = Bounds {
    hesitant: true,
    nodes: 3,
    ..FROM_START
};

const DRAFT_03: Bounds = Bounds {
    spoken: Spoken::Draft03,
    ..DEATH
};

/// The client writes a byte.
const fn writes(bounds: Bounds) -> Bounds {
    Bounds {
        written: 1,
        ..bounds
    }
}

/// The nodes write a byte.
const fn sends(bounds: Bounds) -> Bounds {
    Bounds { sent: 1, ..bounds }
}

/// No node dies.
const fn alive(bounds: Bounds) -> Bounds {
    Bounds {
        deaths: 0,
        ..bounds
    }
}

const fn both(bounds: Bounds) -> Bounds {
    writes(sends(bounds))
}
