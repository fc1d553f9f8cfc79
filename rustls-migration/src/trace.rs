//! How traces tell of a connection: one span for it, with the lineage of what it carries, by which the traces of several nodes belong
//! together.

use tracing::Span;
use tracing::field::display;

use crate::lineage::Lineage;

/// The target of connections' spans and of what happens to them. [`Stats`](crate::server::Stats) documents arrivals, and
/// [`MigrationAcceptor`](crate::tokio::MigrationAcceptor) the span.
pub(crate) const CONNECTION: &str = "rustls_migration::connection";

/// In a connection's span: what it carries.
#[cfg(feature = "tokio")]
pub(crate) fn is_of(span: &Span, lineage: Lineage) {
    span.record("id", display(lineage.shown()));
    span.record("epoch", lineage.epoch());
}

/// In the span that is current, if it is a connection's: its client's ticket is of a connection with this lineage.
pub(crate) fn comes_from(lineage: Lineage) {
    let span = Span::current();
    // It may be one of the application's.
    let ours = span.metadata().filter(|span| span.target() == CONNECTION);
    if ours.is_some() && !span.is_disabled() {
        span.record("from", display(lineage.shown()));
    }
}
