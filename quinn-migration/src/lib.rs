//! QUIC server migration: a server moves live connections to another of its addresses.
//!
//! An implementation of SERVER_ALTERNATE_ADDRESS (draft-saa-ali-quic, "Extending QUIC for Mid-Connection Server-Side
//! Migration") around unmodified quinn 0.11 and rustls 0.23. Applications keep using `quinn::Connection`; the crate
//! stands below quinn, as its [`quinn::crypto`] session and as its UDP socket.
//!
//! - Server: [`MigrationServer`] binds an endpoint, adds addresses and [advertises](MigrationServer::advertise) them.
//!   [Rotation] moves connections over a range of addresses again and again, a [Drain] moves all that are on one, and
//!   [`ServerEvents`] tell what clients do.
//! - Client: [`MigrationClient`] binds an endpoint; a [`Migrator`] with a [`Policy`] follows the server and reports
//!   [`Event`]s.
//! - [`wire`]: the formats alone.
//!
//! Run `cargo run --release -p demo-client -- quic-handoff --hops 3` to see it work on the loopback interface, and
//! `cargo run --release -p quinn-migration --example compare` for a comparison with stock quinn.
//!
//! # How it works
//!
//! | part | what it does |
//! |---|---|
//! | session | a `quinn_proto::crypto::Session` over `rustls::quic`; adds the transport parameter, wraps the 1-RTT packet keys |
//! | hooks | one state machine for each side, called with every packet in the clear, before sealing and after opening |
//! | placeholder datagram | a DATAGRAM frame with a secret marker that the application task queues; the hook replaces it by the frame that quinn does not know |
//! | spare connection ID | the server's hook keeps one NEW_CONNECTION_ID frame back: its connection ID and reset token go into the advertisement, so quinn routes them already |
//! | path switch | once a path is validated the client's hook shows quinn a NEW_CONNECTION_ID frame that makes it switch; the socket routes by connection ID, so the address changes with the same packet |
//! | path tag | the server shows quinn a client that has moved to address number k as a remote address of its own, and quinn's migration (RFC 9000 section 9) does the rest; where a connection began, quinn and the application see the client's own address |
//!
//! Many addresses: [`MigrationServer::add_pool`] serves a whole prefix through one socket, [`MigrationServer::add_pools`] one of
//! each family, and packets are told apart by their destination address. An address costs a table entry while it is served, and
//! nothing afterwards; numbers come round again. Each address of [`MigrationServer::add_address`] has a socket of its own.
//!
//! A hook that cannot act passes the bytes through. A validation that fails leaves the connection where it is.
//!
//! # Faithful to the draft
//!
//! Parameter and frame layout; the parameter is the client's alone; a server never sends the frame without it; any time
//! after the handshake; the family of the current path; PATH_CHALLENGE in a padded probing packet with the
//! advertised connection ID, everything else on the old path until it is answered; the server answers from the probed
//! address and validates the client in turn; the reset token is live; connection IDs are retired and count against the
//! limit.
//!
//! The draft leaves code points and the meaning of the sequence number open: see [`Codepoints`] and
//! [`wire::AlternateAddress::sequence`].
//!
//! # Recovery
//!
//! | what is lost | what happens |
//! |---|---|
//! | the advertisement, or its acknowledgement | sent again after 3 RTT + 50 ms, then linearly later, for 30 s, so that a client that is silent for some seconds hears of it; a repetition is recognised |
//! | what gives a connection ID back | the same, for as long as the connection lives |
//! | a challenge or its answer | the next challenge, with the same back-off, [`Policy::challenges`] in all; answers count for 3 s at least |
//! | the advertised connection ID, because the server's lifetimes made quinn go on to a later one | [`Refusal::Superseded`], [`Failure::Withdrawn`] or [`AdvertiseError::NotAcknowledged`]; the next advertisement has a fresh one |
//! | all of them | [`Event::Failed`]; the connection ID is given back, and the next advertisement can use another one |
//! | the path after the move | after 3 times 3 RTT + 50 ms without an answer: challenges to the path before and to the first address in turns, each with a connection ID of its own; back to the one that answers: [`Event::FellBack`] |
//! | the path right after the move, before the server has issued another connection ID | the same, with the connection ID of the path before, which is given back only when the new path has worked |
//! | the same, and quinn keeps the challenge back behind a DATAGRAM of more than 1200 bytes | packets go to the earlier path unasked; back to the one in use when nothing comes from there, or something by the one in use |
//! | the path, while the client only listens | when what came has stopped for a second, PING asks once |
//! | the path, with [`FollowPolicy::OnSilence`] | the kept advertisements are followed, one after the other, in turns with earlier paths |
//! | that too, or no connection ID is left | [`Event::Stranded`]; both paths are tried on until quinn's idle timeout, and the one in use is kept when it comes back |
//!
//! # Limits
//!
//! What stock quinn does not allow, and what it means:
//!
//! - The frame is repeated on the crate's own timer, not by quinn's loss detection. Lost challenges count as losses of
//!   the old path in quinn's congestion control and black hole detection. Challenges are repeated sooner than RFC 9000
//!   section 8.2.1 recommends, but only [`Policy::challenges`] times.
//! - The client's RTT estimate, its pacer and its path MTU are not reset by a move (RFC 9000 section 9.4): quinn-proto has
//!   `path_changed` for that, but quinn 0.11 does not call it and lets nobody else do so. The estimate follows the new path
//!   within some ten round trips. The congestion window begins anew, and losses and acknowledgements of what was sent on the
//!   old path do not change it, by [`PerPathCongestion`], which a `TransportConfig` of your own must name. What is in flight
//!   on the old path still takes room in the new one's window, until it is acknowledged or lost: less is sent than RFC 9000
//!   allows, never more. The server resets all of them.
//! - The first challenge has the size of the old path's MTU, up to 1452 bytes. The next ones have 1200 while the client has
//!   nothing to send, so that a new path with a smaller MTU is found; for a busy upload lower
//!   `TransportConfig::mtu_discovery_config` where such paths are.
//! - On a silent path quinn sends two packets at each probe timeout, and each timeout is twice as long as the one before
//!   (RFC 9002 section 6.2.1); a busy connection's congestion window lets nothing else out. Challenges to an earlier path
//!   leave in these packets, beside the control frames that quinn repeats in them, so a return takes one or two of these
//!   timeouts after the silence is noticed. `TransportConfig::max_idle_timeout` (30 s in quinn) must leave time for them;
//!   raise it where round trips take seconds.
//! - quinn takes a packet for a duplicate when 128 later ones have overtaken it. When the client is busy and the new path is
//!   slower, a challenge is lost that way. So the client's datagrams on the old path wait for the second challenge, 100 ms at
//!   most, and for the third, 200 ms: a new path may be that much slower, one way.
//! - In a full datagram buffer a challenge or an advertisement takes the place of the application's oldest datagrams: of three
//!   or one, and of more, up to four times as many, when it was itself pushed out before it left.
//! - The advertised connection ID must be as long as the others. Servers with zero-length connection IDs cannot
//!   advertise ([`AdvertiseError::NoConnectionId`]).
//! - quinn accepts DATAGRAM frames for sending although the peer takes none, or only small ones, because placeholders need that.
//!   What the peer would not accept is dropped with a warning, not sent: `max_datagram_size` is no measure of it when the peer
//!   announces less than 16383.
//! - `TransportConfig::datagram_receive_buffer_size(None)` and `ServerConfig::migration(false)` switch the extension off.
//! - The socket of a new path is like the endpoint's own: same local address, device, mark (Linux) and buffers. Other options
//!   are the application's to set: [`ClientBuilder::path_sockets`].
//! - `quinn::Endpoint::rebind` on a client takes this crate's socket away: connections return to their first server
//!   address. Use [`MigrationClient::rebind`].
//! - A move to another machine needs that machine to forward to this process, as the crate quic-forwarder does: the draft
//!   moves no state.
//! - quinn 0.11.19 can end a connection with CONNECTION_ID_LIMIT_ERROR when the *client* uses connection ID lifetimes and
//!   its path changes, also without this crate. Lifetimes at the server are safe.
//!
//! Closed here, although stock quinn leaves it open:
//!
//! - The answer to a challenge carries a fresh connection ID of the client instead of the old path's, so the two paths
//!   share no connection ID in either direction.
//! - A challenge of the server's is answered on the path that it came by, in a datagram of its own when that is not the one in
//!   use (RFC 9000 section 8.2.2), as long as that path has a connection ID; quinn would answer it on the path in use.
//! - When the server gives up the connection ID that it sent to the old path with, the client's quinn hears of it 3 RTT + 50 ms
//!   later: what is still under way on the old path would be dropped.
//! - Challenges and their answers have packet numbers of four bytes, so that packets on the other path may overtake them
//!   (RFC 9000 section 17.1), and at least 1200 bytes whatever quinn's path MTU is.
//!
//! # Fuzzing
//!
//! The parsers and the client's hook have fuzz targets, with seeds, in the repository's `fuzz/`:
//! `tools/fuzz 600 frames alternate_address transport_parameters client_hook`.
//!
//! # Versions
//!
//! Relied on without a promise by quinn's version number: a packet is sealed once, before header protection; the order
//! of frames in a packet (checked for every probe); the size of a DATAGRAM frame; the handling of "retire prior to". The
//! tests of this crate show a breach of any of them.
#![forbid(unsafe_code)]

mod client;
mod congestion;
mod error;
mod event;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hooks;
#[cfg(feature = "metrics")]
pub mod metrics;
mod migrator;
mod policy;
mod server;
mod session;
mod socket;
mod stats;
pub mod wire;

pub use client::{ClientBuilder, MigrationClient};
pub use congestion::PerPathCongestion;
pub use error::{AddressError, AdvertiseError, AttachError, BindError, ConfigError};
pub use event::{Event, Failure};
pub use hooks::server::Outcome;
pub use migrator::Migrator;
pub use policy::{AddressClass, Family, FollowPolicy, Policy, Refusal};
pub use server::{
    AddressId, AddressPool, Advertised, Alternate, Attachment, AttachmentId, ClientAddress, Drain,
    DrainOutcome, DrainPlan, DrainProgress, DrainSummary, DrainedConnection, MigrationServer,
    Rotating, Rotation, RotationProgress, ServerBuilder, ServerEvent, ServerEvents,
};
pub use socket::{AddressRange, AddressRangeError, NewPath, Traffic};
pub use stats::{ClientStats, ServerStats};
pub use wire::{Codepoints, CodepointsError};
