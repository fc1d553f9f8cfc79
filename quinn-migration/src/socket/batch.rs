//! Sending a batch of segments through one socket, whatever the device below it can do.
//!
//! A socket that cannot segment any more lowers its limit and loses the batch that it noticed it with (quinn-udp, at the
//! first EIO for UDP_SEGMENT). Never leaves that batch lost, and never hands a socket more segments than it takes.

use std::io;

use quinn::AsyncUdpSocket;
use quinn::udp::Transmit;

use super::datagrams;

/// Sends a batch in one piece when the socket can do that, or else its segments one by one.
pub(super) fn send(socket: &dyn AsyncUdpSocket, transmit: &Transmit<'_>) -> io::Result<()> {
    let length = transmit.contents.len();
    let segments = datagrams(length, transmit.segment_size.unwrap_or(length));
    let takes = || u64::try_from(socket.max_transmit_segments()).unwrap_or(u64::MAX) >= segments;
    if segments <= 1 {
        return socket.try_send(transmit);
    }
    if takes() {
        let sent = socket.try_send(transmit);
        let blocked = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        if takes() || sent.as_ref().is_err_and(blocked) {
            return sent;
        }
    }
    one_by_one(socket, transmit)
}

/// When the socket's buffer is full after the first segment, the others are lost, as in any full queue. Otherwise quinn
/// would send the first ones again and again.
fn one_by_one(socket: &dyn AsyncUdpSocket, transmit: &Transmit<'_>) -> io::Result<()> {
    let size = transmit.segment_size.unwrap_or(usize::MAX).max(1);
    for (nth, contents) in transmit.contents.chunks(size).enumerate() {
        let one = Transmit {
            contents,
            segment_size: None,
            ..transmit.clone()
        };
        match socket.try_send(&one) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && nth > 0 => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSliceMut;
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use parking_lot::Mutex;
    use quinn::UdpPoller;
    use quinn::udp::RecvMeta;

    /// Loses the first batch and segments no more; is full after `room` datagrams.
    #[derive(Debug)]
    struct Device(Mutex<State>);

    #[derive(Debug)]
    struct State {
        segments: usize,
        room: usize,
        sent: Vec<Vec<u8>>,
    }

    impl AsyncUdpSocket for Device {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unimplemented!()
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            let mut state = self.0.lock();
            if transmit.segment_size.is_some() {
                state.segments = 1;
            } else if state.sent.len() < state.room {
                state.sent.push(transmit.contents.to_vec());
            } else {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn max_transmit_segments(&self) -> usize {
            self.0.lock().segments
        }
    }

    fn sent(segments: usize, room: usize) -> (io::Result<()>, Vec<Vec<u8>>) {
        let device = Device(Mutex::new(State {
            segments,
            room,
            sent: Vec::new(),
        }));
        let transmit = Transmit {
            destination: "127.0.0.1:9".parse().unwrap(),
            ecn: None,
            contents: &[1, 1, 2, 2, 3],
            segment_size: Some(2),
            src_ip: None,
        };
        (send(&device, &transmit), device.0.into_inner().sent)
    }

    #[test]
    fn a_batch_that_the_device_cannot_segment_leaves_in_datagrams() {
        for limit in [10, 1] {
            let (result, datagrams) = sent(limit, 9);
            assert!(result.is_ok());
            assert_eq!(datagrams, [vec![1, 1], vec![2, 2], vec![3]]);
        }
    }

    #[test]
    fn a_buffer_that_is_full_in_the_middle_does_not_make_quinn_repeat_the_beginning() {
        let (result, datagrams) = sent(1, 1);
        assert!(result.is_ok() && datagrams.len() == 1);
        let (result, _) = sent(1, 0);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
