//! The dialects of the protocol: which revision of the draft a connection speaks (`docs/protocol.md` section 10).
//!
//! A dialect decides how a ticket is marked, how a client is asked, and where the target stands. What may be done is the
//! same in all of them.

/// A revision of the draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Draft -01, completed by `docs/protocol.md`: a signed token in the ticket and in the hello to the target, and the
    /// `migrate_notify` alert. The default.
    Draft01,
    /// Draft -03: a mark on the ticket, in which the authorisation is sealed, and the `migrate_request` message with an
    /// opaque target. **Experimental**: see [`ExperimentalCodepoints`](crate::ExperimentalCodepoints).
    Draft03,
}

/// Those that one side speaks, the preferred one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialects([Option<Dialect>; 2]);

impl Default for Dialects {
    fn default() -> Self {
        Self([Some(Dialect::Draft01), None])
    }
}

impl Dialects {
    /// `None` when there is none among them. What comes twice counts once.
    pub(crate) fn new(preferred_first: impl IntoIterator<Item = Dialect>) -> Option<Self> {
        let mut all = preferred_first.into_iter();
        let first = all.next()?;
        Some(Self([Some(first), all.find(|other| *other != first)]))
    }

    pub(crate) fn has(self, dialect: Dialect) -> bool {
        self.0.contains(&Some(dialect))
    }

    /// The preferred one of those that are wanted.
    pub(crate) fn choose(self, wanted: impl Fn(Dialect) -> bool) -> Option<Dialect> {
        self.0
            .into_iter()
            .flatten()
            .find(|dialect| wanted(*dialect))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_both_sides_speak_is_chosen() {
        let [old, new] = [Dialect::Draft01, Dialect::Draft03];
        let both = Dialects::new([new, old, new]).unwrap();
        assert_eq!(both.choose(|_| true), Some(new));
        assert_eq!(both.choose(|dialect| dialect == old), Some(old));
        assert_eq!(both.choose(|_| false), None);
        assert_eq!(Dialects::default().choose(|dialect| dialect == new), None);
        assert_eq!(Dialects::new([old]), Some(Dialects::default()));
        assert_eq!(Dialects::new([]), None);
        assert!(both.has(old) && both.has(new) && !Dialects::default().has(new));
    }
}
