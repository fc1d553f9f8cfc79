//! What this crate measures by the crate [`metrics`](https://docs.rs/metrics), for a recorder of the application's: Prometheus' or
//! another. Without a recorder it costs next to nothing.
//!
//! Each fact is measured in one place, where [`Stats`](crate::server::Stats), an event or a drain's progress has it too. No label has an
//! address, a name or a secret in it. `docs/operating.md` says what to watch.

pub use migration_policy::{Metric, MetricKind};

migration_policy::metrics! {
    CONNECTIONS = gauge(
        "rustls_migration_connections", [],
        "Live connections of this node's acceptors, those included whose hello is still to come."
    );
    CONNECTIONS_CLOSED = counter(
        "rustls_migration_connections_closed_total", ["departure"],
        "Connections that are gone, by how their departure stood: see DepartureStatus."
    );
    HANDSHAKES_IN_PROGRESS = gauge(
        "rustls_migration_handshakes_in_progress", [],
        "Handshakes that have begun and are not over: each takes one of the places of max_handshakes."
    );
    HANDSHAKES_TIMED_OUT = counter(
        "rustls_migration_handshakes_timed_out_total", [],
        "Connections that were dropped because their handshake took too long."
    );
    SILENT_CONNECTIONS = counter(
        "rustls_migration_silent_connections_total", [],
        "Connections that were dropped because their client said nothing."
    );
    ARRIVALS = counter(
        "rustls_migration_arrivals_total", ["verdict"],
        "Hellos that were answered: Fresh without a token, Migrated with one that was accepted, Recovered with a checkpoint's, else why it was refused."
    );
    EARLY_DATA = counter(
        "rustls_migration_early_data_total", [],
        "Clients that migrated here and whose early data was accepted."
    );
    RESUMPTIONS = counter(
        "rustls_migration_resumptions_total", ["early_data"],
        "Ordinary resumptions, without a token."
    );
    COMMITS = counter(
        "rustls_migration_commits_total", ["outcome"],
        "Tokens that were to be spent when their handshake was complete: won, or the connection was closed."
    );
    OFFERS = counter(
        "rustls_migration_offers_total", [],
        "Offers that were made to clients, at the handshake or later."
    );
    CHECKPOINTS = counter(
        "rustls_migration_checkpoints_total", [],
        "Checkpoints that were made for clients."
    );
    CHECKPOINTS_SUPERSEDED = counter(
        "rustls_migration_checkpoints_superseded_total", ["outcome"],
        "Checkpoints that newer ones have taken the place of: spent, not_spent when the store did not say, or elsewhere when one had been used."
    );
    NOTICES = counter(
        "rustls_migration_notices_total", ["kind"],
        "Clients that were told to move, each counted when it was told first."
    );
    NOT_MOVABLE = counter(
        "rustls_migration_not_movable_total", ["reason"],
        "Clients that should have been told to move and could not be."
    );
    NONCE_STORE_SECONDS = histogram(
        "rustls_migration_nonce_store_seconds", ["operation", "outcome"],
        "How long the nonce store took for one answer."
    );
    SEALS_LEFT = gauge(
        "rustls_migration_seals_left", ["kind"],
        "How many tickets the current ticket key may still seal in this process."
    );
    KEY_RELOADS = counter(
        "rustls_migration_key_reloads_total", ["outcome"],
        "How often the ticket keys were read again."
    );
    DRAINS_IN_PROGRESS = gauge(
        "rustls_migration_drains_in_progress", [],
        "Drains that are under way."
    );
    DRAIN_CONNECTIONS = gauge(
        "rustls_migration_drain_connections", ["outcome"],
        "The connections of the drain under way, or of the last one, by what became of them: see DrainProgress."
    );
    DRAIN_REMAINING = gauge(
        "rustls_migration_drain_remaining_connections", [],
        "The connections of the drain that are still there, whatever became of them."
    );
    CLIENT_OFFERS = counter(
        "rustls_migration_client_offers_total", ["outcome"],
        "Offers that servers made to this client: accepted, or why not."
    );
    CLIENT_NOTICES = counter(
        "rustls_migration_client_notices_total", ["kind"],
        "How often servers asked streams of this client to move."
    );
    CLIENT_MOVES = counter(
        "rustls_migration_client_moves_total", ["outcome"],
        "What came of moves of this client's streams."
    );
    CLIENT_CHECKPOINTS = counter(
        "rustls_migration_client_checkpoints_total", ["outcome"],
        "Checkpoints that servers made for streams of this client: usable, or not_usable since too little was kept."
    );
    CLIENT_RECOVERIES = counter(
        "rustls_migration_client_recoveries_total", ["outcome"],
        "What came of streams of this client whose server was lost and that had a checkpoint: recovered, or why not."
    );
    CLIENT_SUCCESSORS = counter(
        "rustls_migration_client_successors_total", ["outcome"],
        "What came of next connections by an offer."
    );
    CLIENT_UNREACHABLE_TARGETS = counter(
        "rustls_migration_client_unreachable_targets_total", [],
        "Attempts to reach a target that failed, and that are made again."
    );
    CLIENT_STALL_SECONDS = histogram(
        "rustls_migration_client_stall_seconds", [],
        "How long a move held back what the application wrote. A move by overlap holds nothing back, and is not here."
    );
}
