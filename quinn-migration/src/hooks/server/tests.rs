//! The server's hook with made-up packets and made-up time.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test wants one variant and fails on all others"
)]

use super::*;
use crate::wire::append_parameter;
use crate::wire::{ResetToken, put_varint, retire_connection_id};
use bytes::BytesMut;
use proptest::prelude::*;

const CLIENT_ID: [u8; 8] = [0xc1; 8];
const OLD_ID: [u8; 8] = [0xd0; 8];
const RTT: Duration = Duration::from_millis(10);

struct Bench {
    /// Packet number of the last packet received.
    received: u64,
    hook: ServerHook,
    now: Instant,
    number: u64,
}

impl Bench {
    fn negotiated() -> Self {
        let mut hook = ServerHook::new(Codepoints::default(), Arc::default());
        let mut list = Vec::new();
        append_parameter(&mut list, Codepoints::default().parameter(), &[]);
        append_parameter(&mut list, VarInt::from_u32(0x0e), &[5]);
        let shown = hook.on_peer_parameters(&list, false).unwrap();
        assert_eq!(find_parameter(&shown, 0x20), Ok(Some(&[0x7f, 0xff][..])));
        Self {
            received: 0,
            hook,
            now: Instant::now(),
            number: 0,
        }
    }

    /// With a spare connection ID and an advertisement begun.
    fn advertising() -> (Self, VarInt) {
        let mut bench = Self::negotiated();
        bench.send(new_connection_id(1, 0));
        let sequence = bench
            .hook
            .begin(Some("198.51.100.1:1".parse().unwrap()), None)
            .unwrap();
        (bench, sequence)
    }

    fn send(&mut self, payload: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        let (id, payload, _) = self.send_for_effects(payload);
        (id, payload)
    }

    fn send_for_effects(&mut self, mut payload: Vec<u8>) -> (Vec<u8>, Vec<u8>, Effects) {
        let mut header = [&[0x41], &CLIENT_ID[..], &[0, 7]].concat();
        self.number += 1;
        let packet = Outgoing {
            number: self.number,
            header: &mut header,
            payload: &mut payload,
            tag: 16,
        };
        let mut effects = Effects::default();
        self.hook.on_send(packet, &mut effects);
        (header[1..9].to_vec(), payload, effects)
    }

    fn receive(&mut self, id: &[u8], frames: &[u8]) {
        assert_eq!(
            self.receive_and_see(id, frames),
            frames,
            "the server's hook changes nothing on receipt"
        );
    }

    /// Answers with what quinn sees.
    fn receive_and_see(&mut self, id: &[u8], frames: &[u8]) -> Vec<u8> {
        self.received += 1;
        let mut payload = BytesMut::from(frames);
        let header = [&[0x41], id, &[0, 7]].concat();
        let packet = Incoming {
            arrival: crate::hooks::Arrival::default(),
            number: self.received,
            header: &header,
            payload: &mut payload,
        };
        self.hook.on_receive(packet, &mut Effects::default());
        payload.to_vec()
    }

    /// Sends the frame in the place of a placeholder; answers with the packet's payload.
    fn carry(&mut self, sequence: VarInt) -> Vec<u8> {
        let AdvertStep::Send(placeholders) = self.hook.poll(sequence, self.now, RTT) else {
            panic!("not due")
        };
        self.send(datagram(&placeholders[0])).1
    }

    fn acknowledge_last(&mut self) {
        let mut ack = vec![0x02];
        put_varint(&mut ack, VarInt::from_u64(self.number).unwrap());
        ack.extend_from_slice(&[0, 0, 0]);
        self.receive(&OLD_ID, &ack);
    }
}

fn datagram(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x31];
    put_varint(
        &mut frame,
        VarInt::from_u32(u32::try_from(data.len()).unwrap()),
    );
    frame.extend_from_slice(data);
    frame
}

fn new_connection_id(sequence: u32, retire_prior_to: u32) -> Vec<u8> {
    let mut out = Vec::new();
    NewConnectionId {
        sequence: sequence.into(),
        retire_prior_to: retire_prior_to.into(),
        id: ConnectionId::new(&[u8::try_from(sequence).unwrap(); 8]),
        token: ResetToken::new([9; 16]),
    }
    .encode(&mut out);
    out
}

fn is_ping_and_padding(payload: &[u8]) -> bool {
    payload[0] == 1 && payload[1..].iter().all(|byte| *byte == 0)
}

#[test]
fn one_connection_id_is_kept_back_also_when_quinn_sends_it_again() {
    let mut bench = Bench::negotiated();
    assert!(is_ping_and_padding(&bench.send(new_connection_id(1, 0)).1));
    assert_eq!(
        bench.send(new_connection_id(2, 0)).1,
        new_connection_id(2, 0)
    );
    assert!(is_ping_and_padding(&bench.send(new_connection_id(1, 0)).1));
}

#[test]
fn a_frame_that_was_let_through_is_let_through_again() {
    let mut bench = Bench::negotiated();
    bench.send(new_connection_id(1, 0));
    let rotation = new_connection_id(5, 5);
    assert_eq!(bench.send(rotation.clone()).1, rotation);
    // The spare one is free again, and quinn sends the frame once more because it was lost.
    assert_eq!(bench.send(rotation.clone()).1, rotation);
}

#[test]
fn a_client_that_did_not_offer_gets_every_frame_and_no_advertisement() {
    let mut hook = ServerHook::new(Codepoints::default(), Arc::default());
    assert_eq!(hook.on_peer_parameters(&[], false), Ok(Vec::new()));
    let mut bench = Bench {
        received: 0,
        hook,
        now: Instant::now(),
        number: 0,
    };
    assert_eq!(
        bench.send(new_connection_id(1, 0)).1,
        new_connection_id(1, 0)
    );
    assert_eq!(
        bench.hook.begin(None, None),
        Err(CannotBegin::NotNegotiated)
    );
}

#[test]
fn a_parameter_with_a_value_is_a_fault_of_the_client() {
    let mut list = Vec::new();
    append_parameter(&mut list, Codepoints::default().parameter(), &[1]);
    let mut hook = ServerHook::new(Codepoints::default(), Arc::default());
    assert_eq!(
        hook.on_peer_parameters(&list, false),
        Err(ParameterFault::NotEmpty)
    );
    assert!(!hook.negotiated());
}

/// It could not change its own path any more (RFC 9000 section 9.5).
#[test]
fn a_client_with_room_for_two_connection_ids_keeps_its_only_spare() {
    for limit in [Some(2), None, Some(3)] {
        let mut list = Vec::new();
        append_parameter(&mut list, Codepoints::default().parameter(), &[]);
        if let Some(limit) = limit {
            append_parameter(&mut list, VarInt::from_u32(0x0e), &[limit]);
        }
        let mut bench = Bench::negotiated();
        bench.hook = ServerHook::new(Codepoints::default(), Arc::default());
        bench.hook.on_peer_parameters(&list, false).unwrap();
        let issued = new_connection_id(1, 0);
        let seen = bench.send(issued.clone()).1 == issued;
        assert_eq!(seen, limit != Some(3), "{limit:?}");
        let begun = bench.hook.begin(None, None);
        assert_eq!(begun == Err(CannotBegin::Never), seen, "{begun:?}");
    }
}

#[test]
fn a_server_without_connection_ids_does_not_wait_for_one() {
    let mut bench = Bench::negotiated();
    bench.hook = bench.hook.with_ids(false);
    assert_eq!(bench.hook.begin(None, None), Err(CannotBegin::Never));
}

#[test]
fn the_frame_takes_the_placeholders_place_until_it_is_acknowledged() {
    let (mut bench, sequence) = Bench::advertising();
    let payload = bench.carry(sequence);
    let frame = next_frame(&payload, 0, Codepoints::default().frame()).unwrap();
    let address = AlternateAddress::decode(&payload[frame.body]).unwrap();
    assert_eq!(
        (address.sequence, address.id),
        (sequence, ConnectionId::new(&[1; 8]))
    );
    assert!(
        payload[frame.whole.end..].iter().all(|byte| *byte == 0),
        "the placeholder's marker is on the wire"
    );
    let AdvertStep::Wait(until) = bench.hook.poll(sequence, bench.now, RTT) else {
        panic!("not waiting")
    };
    bench.now = until;
    assert_eq!(bench.carry(sequence), payload);
    bench.acknowledge_last();
    assert_eq!(
        bench.hook.poll(sequence, bench.now, RTT),
        AdvertStep::Acknowledged(2)
    );
    assert_eq!(bench.hook.outcome(sequence), None);
}

#[test]
fn an_advertisement_that_is_never_acknowledged_is_sent_for_half_a_minute() {
    let (mut bench, sequence) = Bench::advertising();
    let (mut packets, began) = (0, bench.now);
    loop {
        match bench.hook.poll(sequence, bench.now, RTT) {
            AdvertStep::Send(placeholders) => {
                packets += 1;
                bench.send(datagram(&placeholders[0]));
            }
            AdvertStep::Wait(until) => bench.now = until,
            step => break assert_eq!(step, AdvertStep::Lost),
        }
    }
    assert_eq!(bench.now - began, LONGEST_EXCHANGE);
    // The waits grow.
    assert!((10..40).contains(&packets), "{packets}");
}

/// Where an application pushes the oldest datagrams out of quinn's buffer, that may be the placeholder.
#[test]
fn an_advertisement_that_is_lost_in_the_queue_is_queued_twice_and_sent_once() {
    let (mut bench, sequence) = Bench::advertising();
    let mut queued = Vec::new();
    while queued.len() < 2 {
        match bench.hook.poll(sequence, bench.now, RTT) {
            AdvertStep::Send(placeholders) => queued.push(placeholders),
            AdvertStep::Wait(until) => bench.now = until,
            step => panic!("{step:?}"),
        }
    }
    assert_eq!([queued[0].len(), queued[1].len()], [1, 2]);
    let placeholders: Vec<_> = queued[1].iter().flat_map(|c| datagram(c)).collect();
    let first = bench.send(placeholders).1;
    let adverts = |payload: &[u8]| {
        let mut kinds = Vec::new();
        let mut at = 0;
        while let Some(frame) = next_frame(payload, at, Codepoints::default().frame()) {
            at = frame.whole.end;
            kinds.push(frame.kind);
        }
        let alternate = Codepoints::default().frame().into_inner();
        kinds.iter().filter(|kind| **kind == alternate).count()
    };
    assert_eq!(adverts(&first), 1);
    let late = bench.send(datagram(&queued[0][0])).1;
    assert!(is_ping_and_padding(&late), "it was sent");
}

#[test]
fn an_advertisement_cancelled_before_it_was_sent_gives_its_connection_id_back() {
    let (mut bench, sequence) = Bench::advertising();
    let AdvertStep::Send(placeholders) = bench.hook.poll(sequence, bench.now, RTT) else {
        panic!("not due")
    };
    bench.hook.end(sequence);
    assert!(
        is_ping_and_padding(&bench.send(datagram(&placeholders[0])).1),
        "a placeholder without a frame is on the wire"
    );
    assert_eq!(bench.hook.begin(None, None), Ok(sequence));
}

#[test]
fn a_second_advertisement_waits_for_the_first_and_for_a_connection_id() {
    let (mut bench, sequence) = Bench::advertising();
    assert_eq!(bench.hook.begin(None, None), Err(CannotBegin::Busy));
    bench.carry(sequence);
    bench.acknowledge_last();
    assert_eq!(bench.hook.begin(None, None), Err(CannotBegin::NoSpareCid));
    bench.receive(&OLD_ID, &retire_connection_id(sequence));
    assert_eq!(bench.hook.outcome(sequence), Some(Outcome::Declined));
    bench.send(new_connection_id(5, 0));
    assert_eq!(bench.hook.begin(None, None), Ok(5u32.into()));
    assert_eq!(bench.hook.outcome(sequence), Some(Outcome::Superseded));
}

/// A client gives a connection ID back, or uses it, before its acknowledgement comes, and sends again what is lost.
#[test]
fn what_a_client_does_with_an_advertisement_counts_once_and_says_that_it_came() {
    let counted = |bench: &Bench| {
        let stats = bench.hook.counters.stats();
        (stats.acknowledged, stats.declined, stats.moved)
    };
    let (mut declines, sequence) = Bench::advertising();
    declines.carry(sequence);
    for _ in 0..2 {
        declines.receive(&OLD_ID, &retire_connection_id(sequence));
        declines.acknowledge_last();
        assert_eq!(counted(&declines), (1, 1, 0));
    }
    let (mut moves, sequence) = Bench::advertising();
    moves.carry(sequence);
    for _ in 0..2 {
        moves.receive(&[1; 8], &[0x10, 9]);
        moves.acknowledge_last();
        assert_eq!(counted(&moves), (1, 0, 1));
    }
    let (mut expires, sequence) = Bench::advertising();
    expires.carry(sequence);
    expires.send(new_connection_id(5, 5));
    assert_eq!(counted(&expires), (0, 1, 0));
    expires.receive_and_see(&OLD_ID, &retire_connection_id(sequence));
    assert_eq!(counted(&expires), (0, 1, 0));
}

#[test]
fn the_client_has_moved_with_its_first_packet_that_is_more_than_a_probe() {
    let (mut bench, sequence) = Bench::advertising();
    bench.carry(sequence);
    bench.acknowledge_last();
    bench.receive(&[1; 8], &[&[0x1a], &[7; 8][..], &[0; 20]].concat());
    assert_eq!(bench.hook.outcome(sequence), None);
    bench.receive(&[1; 8], &[0x10, 9]);
    assert_eq!(bench.hook.outcome(sequence), Some(Outcome::Moved));
}

#[test]
fn the_answer_to_a_challenge_carries_the_clients_next_connection_id() {
    let (mut bench, sequence) = Bench::advertising();
    bench.receive(&OLD_ID, &new_connection_id(1, 0));
    bench.carry(sequence);
    bench.receive(&[1; 8], &[&[0x1a], &[7; 8][..]].concat());
    let answer = |data: u8| [&[0x1b], &[data; 8][..], &[0; 20]].concat();
    assert_eq!(
        bench.send([&answer(7)[..], &[0x10, 9]].concat()).0,
        CLIENT_ID,
        "not an answer alone"
    );
    assert_eq!(
        bench.send(answer(8)).0,
        CLIENT_ID,
        "an answer to another challenge"
    );
    assert_eq!(bench.send(answer(7)), (vec![1; 8], answer(7)));
}

#[test]
fn an_answer_that_goes_alone_has_a_long_packet_number() {
    let (mut bench, _) = Bench::advertising();
    let answer = [&[0x1b], &[7; 8][..], &[0; 20]].concat();
    assert!(bench.send_for_effects(answer.clone()).2.force_4_byte_pn);
    let with_more = [&answer[..], &[0x10, 9]].concat();
    assert!(!bench.send_for_effects(with_more).2.force_4_byte_pn);
}

#[test]
fn a_connection_id_that_quinn_retires_is_not_advertised() {
    let mut bench = Bench::negotiated();
    bench.send(new_connection_id(1, 0));
    let rotation = new_connection_id(5, 5);
    assert_eq!(
        bench.send(rotation.clone()).1,
        rotation,
        "a frame that retires must reach the client"
    );
    assert_eq!(bench.hook.begin(None, None), Err(CannotBegin::NoSpareCid));
    assert!(is_ping_and_padding(&bench.send(new_connection_id(6, 5)).1));
    assert_eq!(bench.hook.begin(None, None), Ok(6u32.into()));
    // The client never saw number 1, so the hook retires it in the client's place, but never in a probe.
    let probe = [&[0x1a], &[7; 8][..]].concat();
    assert_eq!(bench.receive_and_see(&OLD_ID, &probe), probe);
    let ping = [0x01];
    assert_eq!(
        bench.receive_and_see(&OLD_ID, &ping),
        [&retire_connection_id(1u32.into())[..], &ping].concat()
    );
    assert_eq!(bench.receive_and_see(&OLD_ID, &ping), ping);
}

#[test]
fn a_spare_connection_id_that_the_client_passes_over_is_replaced() {
    let mut bench = Bench::negotiated();
    bench.send(new_connection_id(1, 0));
    // The client goes on to 2, the lowest that it knows, and can never use 1.
    bench.send(new_connection_id(2, 1));
    assert_eq!(bench.hook.begin(None, None), Err(CannotBegin::NoSpareCid));
    let seen = bench.receive_and_see(&OLD_ID, &[0x01]);
    assert_eq!(
        seen,
        [&retire_connection_id(1u32.into())[..], &[0x01]].concat()
    );
    bench.send(new_connection_id(3, 1));
    assert_eq!(bench.hook.begin(None, None), Ok(3u32.into()));
}

#[test]
fn rotations_leave_nothing_behind() {
    let mut bench = Bench::negotiated();
    for sequence in 1..100 {
        bench.send(new_connection_id(2 * sequence - 1, 2 * sequence - 2));
        bench.send(new_connection_id(2 * sequence, 2 * sequence));
        bench.receive_and_see(&OLD_ID, &[0x01]);
    }
    assert!(bench.hook.withheld.len() <= 2 && bench.hook.orphans.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_sent_keeps_its_length_and_nothing_panics(payload in prop::collection::vec(any::<u8>(), 0..1400)) {
        let (mut bench, _) = Bench::advertising();
        prop_assert_eq!(bench.send(payload.clone()).1.len(), payload.len());
    }

    #[test]
    fn whatever_is_received_stays_as_it_is(id in prop::collection::vec(any::<u8>(), 0..=20), payload in prop::collection::vec(any::<u8>(), 0..1400)) {
        let (mut bench, sequence) = Bench::advertising();
        bench.receive(&id, &payload);
        bench.receive(&[1; 8], &payload);
        let _ = bench.hook.outcome(sequence);
    }

    #[test]
    fn application_data_reaches_the_wire_unchanged(data in prop::collection::vec(any::<u8>(), 0..600)) {
        let (mut bench, _) = Bench::advertising();
        let stream = [&[0x0c, 1, 2][..], &data].concat();
        prop_assert_eq!(bench.send(stream.clone()).1, stream);
    }
}

#[test]
fn an_advertisement_that_expires_unseen_is_retired_in_the_clients_place() {
    let (mut bench, sequence) = Bench::advertising();
    bench.carry(sequence);
    bench.send(new_connection_id(5, 5));
    assert_eq!(bench.hook.poll(sequence, bench.now, RTT), AdvertStep::Lost);
    assert_eq!(bench.hook.outcome(sequence), Some(Outcome::Declined));
    let seen = bench.receive_and_see(&OLD_ID, &[0x01]);
    assert_eq!(
        seen,
        [&retire_connection_id(sequence)[..], &[0x01]].concat()
    );
}

#[test]
fn an_advertisement_that_expires_after_a_probe_is_left_to_the_client() {
    let (mut bench, sequence) = Bench::advertising();
    bench.carry(sequence);
    bench.receive(&[1; 8], &[&[0x1a], &[7; 8][..]].concat());
    bench.send(new_connection_id(5, 5));
    bench.receive(&OLD_ID, &[0x01]);
}
