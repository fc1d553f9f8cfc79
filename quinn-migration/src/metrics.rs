//! What this crate measures by the crate [`metrics`](https://docs.rs/metrics), for a recorder of the application's: Prometheus' or
//! another. Without a recorder it costs next to nothing.
//!
//! Each fact is measured where [`ServerStats`](crate::ServerStats) or [`ClientStats`](crate::ClientStats) has it too. Nothing has a
//! label. `docs/operating.md` says what to watch.

pub use migration_policy::{Metric, MetricKind};

migration_policy::metrics! {
    ATTACHED = gauge(
        "quinn_migration_attached_connections", [],
        "Connections that are attached now."
    );
    ADDRESSES_ADDED = counter(
        "quinn_migration_addresses_added_total", [],
        "Addresses that were added to a server, or drawn from a prefix."
    );
    ADDRESSES_REMOVED = counter(
        "quinn_migration_addresses_removed_total", [],
        "Addresses that were removed from a server."
    );
    ADVERTISED = counter(
        "quinn_migration_advertised_total", [],
        "Advertisements of an address that were begun."
    );
    ACKNOWLEDGED = counter(
        "quinn_migration_acknowledged_total", [],
        "Advertisements that clients have acknowledged."
    );
    MOVED = counter(
        "quinn_migration_moved_total", [],
        "Clients that have moved to an advertised address."
    );
    DECLINED = counter(
        "quinn_migration_declined_total", [],
        "Advertisements that clients have given back, or whose connection ID was retired first."
    );
    FELL_BACK = counter(
        "quinn_migration_fell_back_total", [],
        "Clients that have gone back to an address that was not advertised to them anew."
    );
    GONE = counter(
        "quinn_migration_gone_total", [],
        "Attached connections that have ended."
    );
    CLIENT_ADVERTISED = counter(
        "quinn_migration_client_advertised_total", [],
        "Advertisements that came to this client."
    );
    CLIENT_REFUSED = counter(
        "quinn_migration_client_refused_total", [],
        "Advertisements that this client did not follow."
    );
    CLIENT_MOVED = counter(
        "quinn_migration_client_moved_total", [],
        "Moves of this client to an advertised address."
    );
    CLIENT_FAILED = counter(
        "quinn_migration_client_failed_total", [],
        "Advertised addresses that did not answer this client."
    );
    CLIENT_FELL_BACK = counter(
        "quinn_migration_client_fell_back_total", [],
        "Returns of this client to an earlier address."
    );
    CLIENT_STRANDED = counter(
        "quinn_migration_client_stranded_total", [],
        "How often no address answered this client any more."
    );
    CLIENT_VALIDATION_SECONDS = histogram(
        "quinn_migration_client_validation_seconds", [],
        "How long an advertised address took to answer, while traffic went on at the address before."
    );
    CLIENT_SILENCE_SECONDS = histogram(
        "quinn_migration_client_silence_seconds", [],
        "How long nothing came from an address before this client went back to an earlier one."
    );
}
