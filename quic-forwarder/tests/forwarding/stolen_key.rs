//! Somebody who has the secret that fronts and nodes share, and seals envelopes by docs/forwarding.md alone.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::net::UdpSocket;

use crate::amplification::{LARGEST, received};
use crate::group::{Client, Group, SECRET};
use crate::support::transfer::Transfer;
use crate::support::{Identity, bind, within};

fn address(of: SocketAddr) -> Vec<u8> {
    let ip = match of.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    [&ip.octets()[..], &of.port().to_be_bytes()].concat()
}

/// As from the front to node `node`.
fn sealed(
    front: SocketAddr,
    node: u64,
    client: SocketAddr,
    number: u64,
    datagram: &[u8],
) -> Vec<u8> {
    let (key_number, secret) = SECRET;
    let context = [&node.to_be_bytes()[..], &address(front)].concat();
    let mut key = [0; 64];
    Hkdf::<Sha256>::from_prk(&secret)
        .unwrap()
        .expand_multi_info(&[b"quic-forwarder 1 ", b"to node", &context], &mut key)
        .unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = u64::try_from(now.as_millis()).unwrap().to_be_bytes();
    let mut envelope = vec![0x10, key_number];
    envelope.extend_from_slice(&now[2..]);
    envelope.extend_from_slice(&[7; 8]);
    envelope.extend_from_slice(&number.to_be_bytes());
    envelope.extend_from_slice(&address(client));
    let mut mac = Hmac::<Sha256>::new(&key.into());
    mac.update(&envelope);
    mac.update(datagram);
    envelope.extend_from_slice(&mac.finalize().into_bytes()[..16]);
    envelope.extend_from_slice(datagram);
    envelope
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_key_names_any_client_and_breaks_no_connection() {
    let identity = Identity::large();
    let group = Group::new(&identity);
    let client = Client::new(&identity);
    let (ours, theirs, node) = group.connect(&client.inner, 0).await;
    let transfer = Transfer::start(&ours, &theirs).await;
    let (front, id) = (&group.fronts[0], u64::try_from(node).unwrap() + 1);
    let (thief, inside) = (bind("127.0.0.1:0"), group.at_nodes[node][0]);
    let mut number = 0;
    let mut send = |client: SocketAddr, datagram: &[u8]| {
        let envelope = sealed(front.address(), id, client, number, datagram);
        thief.send_to(&envelope, inside).unwrap();
        number += 1;
    };
    // In the name of a client that is there: nothing that QUIC did not seal counts.
    let before = theirs.stats().udp_rx.datagrams;
    for length in 30..130 {
        send(client.address(), &vec![0x40; length]);
    }
    transfer.progress(1 << 20).await;
    assert!(theirs.stats().udp_rx.datagrams > before);
    // And of one that is not: it gets what an address gets that was not validated.
    let named = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let flight = client.first_flight().await;
    send(named.local_addr().unwrap(), &flight);
    let endpoint = group.nodes[node].inner.endpoint();
    let incoming = within(endpoint.accept()).await.unwrap();
    assert_eq!(incoming.remote_address(), named.local_addr().unwrap());
    let mut config = group.nodes[node].inner.server_config();
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(Some(Duration::from_secs(1).try_into().unwrap()));
    config.transport_config(transport.into());
    let accepting = incoming.accept_with(config.into()).unwrap();
    assert!(within(accepting).await.is_err());
    within(named.readable()).await.unwrap();
    let received = received(&named);
    let limit = 3 * flight.len() + LARGEST;
    assert!((1..=limit).contains(&received), "{received}");
    transfer.check().await;
}
