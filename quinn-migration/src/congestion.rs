//! Congestion control that begins anew on a new path (RFC 9000 section 9.4).
//!
//! quinn knows of no new path when a client moves, so the controller is told by the migrator. Never changes what a
//! controller does between two moves, and never lets what was sent on one path count on another.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

type Factory = Arc<dyn ControllerFactory + Send + Sync>;

/// Makes controllers that a move resets, around those of another factory.
///
/// [`MigrationClient::client_config`](crate::MigrationClient::client_config) has it around quinn's default, Cubic. With a
/// `TransportConfig` of your own, pass it to `TransportConfig::congestion_controller_factory`.
#[derive(Clone)]
pub struct PerPathCongestion(Factory);

impl PerPathCongestion {
    /// Around the controllers of this factory.
    pub fn new(factory: impl ControllerFactory + Send + Sync + 'static) -> Self {
        Self(Arc::new(factory))
    }

    /// The connection is on another path.
    pub(crate) fn reset(connection: &quinn::Connection) {
        let copy = connection.congestion_state().into_any();
        match copy.downcast::<PerPath>() {
            Ok(controller) => drop(controller.paths.fetch_add(1, Ordering::Relaxed)),
            Err(_) => tracing::debug!("not PerPathCongestion's: the window stays as it was"),
        }
    }
}

impl Default for PerPathCongestion {
    fn default() -> Self {
        Self::new(CubicConfig::default())
    }
}

impl fmt::Debug for PerPathCongestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerPathCongestion").finish_non_exhaustive()
    }
}

impl ControllerFactory for PerPathCongestion {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(PerPath {
            factory: Arc::clone(&self.0),
            inner: Arc::clone(&self.0).build(now, mtu),
            mtu,
            paths: Arc::default(),
            path: 0,
            since: None,
        })
    }
}

struct PerPath {
    factory: Factory,
    inner: Box<dyn Controller>,
    mtu: u16,
    /// Counts the paths of the connection; copies of the controller share it.
    paths: Arc<AtomicU64>,
    /// The one that `inner` is for.
    path: u64,
    /// When `inner` began, unless it is the first one.
    since: Option<Instant>,
}

impl PerPath {
    fn is_of_another_path(&self) -> bool {
        self.path != self.paths.load(Ordering::Relaxed)
    }

    fn current(&mut self, now: Instant) -> &mut dyn Controller {
        if self.is_of_another_path() {
            self.path = self.paths.load(Ordering::Relaxed);
            self.since = Some(now);
            self.inner = Arc::clone(&self.factory).build(now, self.mtu);
        }
        &mut *self.inner
    }

    /// Whether a packet that was sent then says something about this path.
    fn counts(&self, sent: Instant) -> bool {
        self.since.is_none_or(|since| sent >= since)
    }
}

impl Controller for PerPath {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.current(now).on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.current(now);
        if self.counts(sent) {
            self.inner.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.current(now)
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.current(now);
        if self.counts(sent) {
            self.inner
                .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.is_of_another_path() {
            self.inner.initial_window()
        } else {
            self.inner.window()
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            factory: Arc::clone(&self.factory),
            inner: self.inner.clone_box(),
            mtu: self.mtu,
            paths: Arc::clone(&self.paths),
            path: self.path,
            since: self.since,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MTU: u16 = 1200;

    /// Fault 17; RFC 9000 section 9.4.
    #[test]
    fn what_was_lost_on_the_path_before_does_not_shrink_the_window_of_the_new_one() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut controller = Arc::new(PerPathCongestion::default()).build(start, MTU);
        let initial = controller.window();
        controller.on_congestion_event(at(1), at(0), false, 1200);
        assert!(controller.window() < initial, "the first path");
        let paths = controller.clone_box().into_any().downcast::<PerPath>();
        paths.unwrap().paths.fetch_add(1, Ordering::Relaxed);
        assert_eq!(controller.window(), initial);
        controller.on_sent(at(2), 1200, 1);
        controller.on_congestion_event(at(3), at(1), false, 1200);
        controller.on_congestion_event(at(3), at(1), true, 1200);
        assert_eq!(controller.window(), initial, "it was sent before the move");
        controller.on_congestion_event(at(4), at(2), false, 1200);
        assert!(controller.window() < initial);
    }
}
