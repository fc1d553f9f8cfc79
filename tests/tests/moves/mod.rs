//! The suite of moves: modes, kinds of move, drains, adversaries. A program that has it is named after the dialect that its peers
//! speak (`migration_tests::dialect`). Each file is a program of its own too, whose peers speak the default.
//!
//! What draft -01 alone has is tested in it alone: the refusals of a token, of its signature and of its fields (`interop_python.rs`,
//! `bad_input.rs`). Draft -03 has no token, and `draft_03_rules.rs` and `interop_draft_03.rs` have what it has instead.

#[path = "../absent_targets.rs"]
mod absent_targets;
#[path = "../application_protocol.rs"]
mod application_protocol;
#[path = "../checkpoints.rs"]
mod checkpoints;
#[path = "../checkpoints_from_outside.rs"]
mod checkpoints_from_outside;
#[path = "../client_decisions.rs"]
mod client_decisions;
#[path = "../connection_handles.rs"]
mod connection_handles;
#[path = "../conversation_rules.rs"]
mod conversation_rules;
#[path = "../conversations.rs"]
mod conversations;
#[path = "../cork.rs"]
mod cork;
#[path = "../cut_answers.rs"]
mod cut_answers;
#[path = "../drain.rs"]
mod drain;
#[path = "../drain_costs.rs"]
mod drain_costs;
#[path = "../drain_node.rs"]
mod drain_node;
#[path = "../drain_of_all_kinds.rs"]
mod drain_of_all_kinds;
#[path = "../drain_outcomes.rs"]
mod drain_outcomes;
#[path = "../duties.rs"]
mod duties;
#[path = "../early_answers.rs"]
mod early_answers;
#[path = "../exactly_once.rs"]
mod exactly_once;
#[path = "../exactly_once_by_choice.rs"]
mod exactly_once_by_choice;
#[path = "../exactly_once_in_services.rs"]
mod exactly_once_in_services;
#[path = "../failing_store.rs"]
mod failing_store;
#[path = "../hand_off_failures.rs"]
mod hand_off_failures;
#[path = "../handoff.rs"]
mod handoff;
#[path = "../interop_openssl.rs"]
mod interop_openssl;
#[path = "../interop_rustls.rs"]
mod interop_rustls;
#[path = "../interrupted_answers.rs"]
mod interrupted_answers;
#[path = "../keepers.rs"]
mod keepers;
#[path = "../late_offers.rs"]
mod late_offers;
#[path = "../lineage.rs"]
mod lineage;
#[path = "../long_tickets.rs"]
mod long_tickets;
#[path = "../lost_to_writers.rs"]
mod lost_to_writers;
#[path = "../many_offers.rs"]
mod many_offers;
#[path = "../mapped_addresses.rs"]
mod mapped_addresses;
#[path = "../migrate_cancelled.rs"]
mod migrate_cancelled;
#[path = "../move_kinds.rs"]
mod move_kinds;
#[path = "../notices_overtake.rs"]
mod notices_overtake;
#[path = "../ordinary_tickets.rs"]
mod ordinary_tickets;
#[path = "../partial_message.rs"]
mod partial_message;
#[path = "../presentations.rs"]
mod presentations;
#[path = "../racer.rs"]
mod racer;
#[path = "../ready_target.rs"]
mod ready_target;
#[path = "../recovery.rs"]
mod recovery;
#[path = "../recovery_ahead.rs"]
mod recovery_ahead;
#[path = "../recovery_conditions.rs"]
mod recovery_conditions;
#[path = "../recovery_stall.rs"]
mod recovery_stall;
#[path = "../refused_early_data.rs"]
mod refused_early_data;
#[path = "../replaced_settings.rs"]
mod replaced_settings;
#[path = "../server_departures.rs"]
mod server_departures;
#[path = "../silent_source.rs"]
mod silent_source;
#[path = "../smuggling.rs"]
mod smuggling;
#[path = "../storm_of_drains.rs"]
mod storm_of_drains;
#[path = "../stream_handle.rs"]
mod stream_handle;
#[path = "../successor.rs"]
mod successor;
#[path = "../superseded.rs"]
mod superseded;
#[path = "../two_steps.rs"]
mod two_steps;
#[path = "../verdicts.rs"]
mod verdicts;
#[path = "../wire_capture.rs"]
mod wire_capture;
#[path = "../young_target.rs"]
mod young_target;
