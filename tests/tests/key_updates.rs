//! KeyUpdates that want an answer: a peer that reads nothing cannot make one side keep an answer to each, and who reads gets one.

use std::sync::Arc;

use migration_tests::Service;
use migration_tests::memory::{Joined, deliver, sent};
use rustls_migration::Connection;

fn joined() -> Joined {
    let service = Service::default();
    let here = "127.0.0.2:443".parse().unwrap();
    let client = service.client_with(service.client_config()).build();
    let server = service.node().own_addresses([here]).build();
    Joined::new(&Arc::new(client.unwrap()), &Arc::new(server.unwrap()), here)
}

/// One wants new keys a thousand times, says a byte each time, and reads nothing until then.
fn asks_a_thousand_times(asking: &mut impl Connection, asked: &mut impl Connection) {
    for number in 0..1000_u32 {
        asking.refresh_traffic_keys().unwrap();
        let byte = [number.to_be_bytes()[3]];
        asking.write(&byte).unwrap();
        deliver(&sent(asking), asked);
        assert_eq!(asked.fill_buf().unwrap(), byte);
        asked.consume(1);
    }
    let answers = sent(asked);
    assert!(
        !answers.is_empty() && answers.len() < 100,
        "{}",
        answers.len()
    );
    deliver(&answers, asking);
    assert!(sent(asked).is_empty());
    // Both have the same keys, and an answer to each question again.
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        let both: [&mut dyn Connection; 2] = [asking, asked];
        both[from].refresh_traffic_keys().unwrap();
        both[from].write(b"hello").unwrap();
        let mut said = Vec::new();
        while both[from].wants_write() {
            both[from].write_tls(&mut said).unwrap();
        }
        let mut said = &*said;
        while !said.is_empty() {
            both[to].read_tls(&mut said).unwrap();
            both[to].process_new_packets().unwrap();
        }
        assert_eq!(both[to].fill_buf().unwrap(), b"hello");
        both[to].consume(5);
        assert!(both[to].wants_write(), "an answer");
    }
}

#[test]
fn a_peer_that_reads_nothing_costs_no_answer_for_each_of_its_key_updates() {
    let Joined {
        mut client,
        mut server,
    } = joined();
    asks_a_thousand_times(&mut client, &mut server);
    let Joined {
        mut client,
        mut server,
    } = joined();
    asks_a_thousand_times(&mut server, &mut client);
}
