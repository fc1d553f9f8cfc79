//! The hand-off on the wire, captured by dumpcap and decoded by tshark with the client's key log: what
//! `docs/protocol.md` promises, seen by a program that knows nothing of this project, in each dialect.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use migration_tests::Spoken;
use migration_tests::programs::{demo_client, report, signal};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The project's own dissector.
const DISSECTOR: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tools/wireshark/migration.lua"
);

/// The extensions, as tshark prints their types: `migration_support` of each draft, then what stands in a ticket.
const SUPPORT_01: &str = "65357";
const SUPPORT_03: &str = "65101";
const TOKEN: &str = "65358";
const ALLOWED: &str = "65102";
const STREAM: &str = "65359";

const INSTALL: &str = "runs; DEBIAN_FRONTEND=noninteractive apt-get install -y tshark";

/// A capture under way on the loopback interface.
struct Capture {
    dumpcap: Child,
    file: PathBuf,
}

impl Capture {
    async fn start(file: PathBuf) -> Self {
        let mut dumpcap = Command::new("dumpcap")
            .args(["-q", "-i", "lo", "-f", "tcp or udp", "-w"])
            .arg(&file)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("dumpcap {INSTALL}: {error}"));
        let mut said = BufReader::new(dumpcap.stderr.take().unwrap()).lines();
        let mut all = Vec::new();
        loop {
            let line = said.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("dumpcap cannot capture on lo: {all:?}"));
            let capturing = line.starts_with("File: ");
            all.push(line);
            if capturing {
                break;
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let capture = Self { dumpcap, file };
        capture.has_seen(b"the capture has begun").await;
        capture
    }

    /// Sends a packet with `mark` until it stands in the file: all that was sent before the last one is in it too.
    async fn has_seen(&self, mark: &[u8]) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        for _ in 0..1000 {
            sender.send_to(mark, to).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            let written = std::fs::read(&self.file).unwrap_or_default();
            if written.windows(mark.len()).any(|window| window == mark) {
                return;
            }
        }
        panic!("dumpcap does not see what is sent on lo");
    }

    async fn finish(mut self) -> PathBuf {
        self.has_seen(b"the capture may end").await;
        signal(&self.dumpcap, "INT").await;
        assert!(self.dumpcap.wait().await.unwrap().success());
        self.file
    }
}

/// A captured hand-off, to ask tshark about.
struct Decoded {
    capture: PathBuf,
    keys: PathBuf,
    report: Value,
}

impl Decoded {
    /// The port of a leg's server.
    fn port(&self, leg: usize) -> u16 {
        let server = self.report["legs"][leg]["server"].as_str().unwrap();
        server.parse::<SocketAddr>().unwrap().port()
    }

    /// What tshark says, with these arguments, of the packets that `filter` selects.
    async fn tshark(&self, filter: &str, arguments: &[&str]) -> String {
        let mut tshark = Command::new("tshark");
        tshark.arg("-X").arg(format!("lua_script:{DISSECTOR}"));
        tshark.arg("-r").arg(&self.capture).arg("-o");
        tshark.arg(format!("tls.keylog_file:{}", self.keys.display()));
        for leg in 0..2 {
            tshark
                .arg("-d")
                .arg(format!("tcp.port=={},tls", self.port(leg)));
        }
        tshark.args(["-Y", filter]).args(arguments);
        let output = tshark.output().await;
        let output = output.unwrap_or_else(|error| panic!("tshark {INSTALL}: {error}"));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A line for each packet that `filter` selects, with the values of `fields`, each split at its commas.
    async fn packets(&self, filter: &str, fields: &[&str]) -> Vec<Vec<Vec<String>>> {
        let mut arguments = vec!["-T", "fields"];
        arguments.extend(fields.iter().flat_map(|field| ["-e", field]));
        let split = |value: &str| value.split(',').map(str::to_owned).collect();
        let said = self.tshark(filter, &arguments).await;
        let lines = said.lines();
        lines
            .map(|line| line.split('\t').map(split).collect())
            .collect()
    }

    /// What the records are made of, of the packets that `filter` selects.
    async fn decrypted(&self, filter: &str) -> Vec<Vec<u8>> {
        let said = self.tshark(filter, &["-x"]).await;
        let records = said.split("Decrypted TLS (").skip(1);
        let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
        // An offset, sixteen bytes at the most, and what they are as text.
        let line = |line: &str| -> Vec<u8> {
            let bytes = line.get(6..6 + 3 * 16).unwrap_or_default();
            bytes.split_whitespace().map(byte).collect()
        };
        records
            .map(|dump| {
                let lines = dump.lines().skip(1).take_while(|line| !line.is_empty());
                lines.flat_map(line).collect()
            })
            .collect()
    }
}

/// What the demo calls the dialect of this program. Its nodes prefer draft -03 when they speak both.
fn dialect() -> &'static str {
    match Spoken::here() {
        Spoken::Draft01 => "01",
        Spoken::Draft03 => "03",
        Spoken::Mixed => "both",
    }
}

/// The `migration_support` that a hello has.
fn offered() -> &'static [&'static str] {
    match Spoken::here() {
        Spoken::Draft01 => &[SUPPORT_01],
        Spoken::Draft03 => &[SUPPORT_03],
        Spoken::Mixed => &[SUPPORT_01, SUPPORT_03],
    }
}

/// What marks a ticket as an offer.
fn mark() -> &'static str {
    match Spoken::here() {
        Spoken::Draft01 => TOKEN,
        Spoken::Draft03 | Spoken::Mixed => ALLOWED,
    }
}

async fn hand_off(folder: &Path) -> Decoded {
    let (file, keys) = (folder.join("file.bin"), folder.join("keys.log"));
    std::fs::write(&file, vec![b'x'; 300_000]).unwrap();
    let capture = Capture::start(folder.join("capture.pcapng")).await;
    let mut client = demo_client(["handoff", "--mode", "immediate", "--json"]);
    client.args(["--dialect", dialect()]);
    client.arg("--file").arg(file).arg("--key-log").arg(&keys);
    let output = client.output().await.unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    Decoded {
        capture: capture.finish().await,
        keys,
        report,
    }
}

/// What tshark decrypts of a connection ends where the capture has lost a packet, as it may on a busy machine. Then another
/// capture is made.
async fn whole_capture() -> (tempfile::TempDir, Decoded) {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let decoded = hand_off(folder.path()).await;
        if !tickets(&decoded, 1).await.is_empty() {
            return (folder, decoded);
        }
    }
    panic!("no capture shows the tickets of both servers");
}

/// The extensions of the NewSessionTickets of a leg's server.
async fn tickets(decoded: &Decoded, leg: usize) -> Vec<Vec<Vec<String>>> {
    let filter = format!(
        "tls.handshake.type == 4 && tcp.srcport == {}",
        decoded.port(leg)
    );
    decoded
        .packets(&filter, &["tls.handshake.extension.type"])
        .await
}

#[tokio::test]
async fn tshark_sees_the_protocol_in_a_captured_hand_off() {
    let (_folder, decoded) = whole_capture().await;
    first_hello_offers_support(&decoded).await;
    ticket_is_an_offer(&decoded).await;
    hello_to_b_carries_the_offer(&decoded).await;
    early_data_is_the_request(&decoded).await;
    only_the_first_use_of_the_offer_resumes(&decoded).await;
    match Spoken::here() {
        Spoken::Draft01 => {
            alert_travels_encrypted(&decoded).await;
            dissector_shows_the_fields(&decoded).await;
        }
        // The dissector does not know what draft -03 alone has.
        Spoken::Draft03 | Spoken::Mixed => request_travels_encrypted(&decoded).await,
    }
}

/// The request to move names the target, in a record of its own behind the offer.
async fn request_travels_encrypted(decoded: &Decoded) {
    const REQUEST: u8 = 0xfd;
    let target = decoded.report["legs"][1]["server"].as_str().unwrap();
    let vector = [&[0, u8::try_from(target.len()).unwrap()], target.as_bytes()].concat();
    let header = [REQUEST, 0, 0, u8::try_from(vector.len()).unwrap()];
    let request = [&header[..], &vector].concat();
    // The record has the inner content type and the tag besides.
    let record = (request.len() + 1 + 16).to_string();

    let filter = format!(
        "tls.record.content_type && tcp.srcport == {}",
        decoded.port(0)
    );
    let fields = [
        "tls.record.opaque_type",
        "tls.record.content_type",
        "tls.record.length",
    ];
    let packets = decoded.packets(&filter, &fields).await;
    let asks = |(kind, len): (&String, &String)| kind == "22" && *len == record;
    let mut asking = packets
        .iter()
        .filter(|packet| packet[1].iter().zip(&packet[2]).any(asks));
    let outside = &asking.next().expect("a migrate_request")[0];
    assert!(outside.iter().all(|kind| kind == "23"), "{outside:?}");
    assert!(asking.next().is_none(), "one migrate_request");
    // However packets are cut.
    let kinds: Vec<_> = packets.iter().flat_map(|packet| &packet[1]).collect();
    let lengths = packets.iter().flat_map(|packet| &packet[2]);
    let mut records = kinds.iter().copied().zip(lengths);
    let at = records.position(asks).unwrap();
    assert_eq!(kinds[at - 1], "22", "a ticket comes before it");

    let decrypted = decoded.decrypted(&filter).await;
    assert_eq!(decrypted.iter().filter(|one| **one == request).count(), 1);
    let alert = "tls.alert_message.desc == 224";
    let alerts = decoded.packets(alert, &["frame.number"]).await;
    assert!(alerts.is_empty(), "no migrate_notify: {alerts:?}");
}

/// Where the tokens of A's offers lead, what kind of moves they are for, and what the client presents to B.
async fn dissector_shows_the_fields(decoded: &Decoded) {
    let target = decoded.report["legs"][1]["server"].as_str().unwrap();
    let fields = [
        "migration.token.target",
        "migration.token.nonce",
        "migration.token.signature",
        "migration.stream",
        "migration.notify",
    ];
    let sent_by_a = format!("migration && tcp.srcport == {}", decoded.port(0));
    let mut offers = Vec::new();
    let mut rest: Vec<String> = Vec::new();
    for mut packet in decoded.packets(&sent_by_a, &fields).await {
        let [targets, nonces, signatures] = [0; 3].map(|first| packet.remove(first));
        assert!(targets.iter().all(|one| one == target), "{targets:?}");
        offers.extend(nonces.into_iter().zip(signatures));
        rest.extend(packet.into_iter().flatten().filter(|one| !one.is_empty()));
    }
    offers.retain(|(nonce, _)| !nonce.is_empty());
    assert_eq!(offers.len(), 3, "{offers:?}");
    assert_eq!(rest.len(), 3, "two of a stream, and a notice: {rest:?}");

    let presented = format!("migration.token && tcp.dstport == {}", decoded.port(1));
    let presented = decoded.packets(&presented, &fields[..3]).await;
    // A makes the last one when the client has closed, and the client does not always wait for it.
    let newest = offers.into_iter().skip(1).map(|(nonce, signature)| {
        let fields = [target.to_owned(), nonce, signature];
        fields.map(|one| vec![one]).to_vec()
    });
    let [first, again] = &presented[..] else {
        panic!("the token, and again: {presented:?}");
    };
    assert_eq!(first, again);
    assert!(newest.into_iter().any(|offer| offer == *first), "{first:?}");
    let malformed = decoded
        .packets("migration.malformed", &["frame.number"])
        .await;
    assert!(malformed.is_empty(), "{malformed:?}");
}

/// The ClientHellos to a leg's server: each one's extensions and their lengths.
async fn hellos(decoded: &Decoded, leg: usize) -> Vec<(Vec<String>, Vec<String>)> {
    let filter = format!(
        "tls.handshake.type == 1 && tcp.dstport == {}",
        decoded.port(leg)
    );
    let fields = [
        "tls.handshake.extension.type",
        "tls.handshake.extension.len",
    ];
    let hellos = decoded.packets(&filter, &fields).await;
    let pair = |mut hello: Vec<Vec<String>>| (hello.remove(0), hello.remove(0));
    hellos.into_iter().map(pair).collect()
}

/// The length of an extension; `None` when the hello has none.
fn length_of<'a>(hello: &'a (Vec<String>, Vec<String>), extension: &str) -> Option<&'a str> {
    let (types, lengths) = hello;
    assert_eq!(types.len(), lengths.len());
    let at = types.iter().position(|one| one == extension)?;
    Some(&lengths[at])
}

async fn first_hello_offers_support(decoded: &Decoded) {
    let hellos = hellos(decoded, 0).await;
    let [hello] = hellos.as_slice() else {
        panic!("one connection to A: {hellos:?}");
    };
    offers_support(hello);
    assert_eq!(length_of(hello, TOKEN), None);
    assert_eq!(length_of(hello, "41"), None, "a full handshake");
}

/// A hello has the support of what its client speaks, and of nothing else.
fn offers_support(hello: &(Vec<String>, Vec<String>)) {
    for support in [SUPPORT_01, SUPPORT_03] {
        let empty = offered().contains(&support).then_some("0");
        assert_eq!(length_of(hello, support), empty, "{support}");
    }
}

async fn ticket_is_an_offer(decoded: &Decoded) {
    let at_a = tickets(decoded, 0).await;
    // At the handshake for the client's next connection, with what asks and at A's end for the stream: A consented to that.
    let extensions: Vec<_> = at_a.iter().flatten().flatten().collect();
    let marks = extensions
        .iter()
        .filter(|one| [TOKEN, ALLOWED, STREAM].contains(&one.as_str()));
    let marks: Vec<_> = marks.map(|one| one.as_str()).collect();
    let expected = [mark(), mark(), STREAM, mark(), STREAM];
    assert_eq!(marks, expected, "{at_a:?}");
    let at_b = tickets(decoded, 1).await;
    assert!(!at_b.is_empty());
    let mut extensions = at_b.iter().flatten().flatten();
    assert!(
        extensions.all(|one| ![TOKEN, ALLOWED].contains(&one.as_str())),
        "B has nowhere to send the client"
    );
}

async fn alert_travels_encrypted(decoded: &Decoded) {
    let fields = [
        "tcp.srcport",
        "tls.record.opaque_type",
        "tls.record.content_type",
        "tls.alert_message.level",
    ];
    let alerts = decoded
        .packets("tls.alert_message.desc == 224", &fields)
        .await;
    let [alert] = alerts.as_slice() else {
        panic!("one migrate_notify: {alerts:?}");
    };
    assert_eq!(alert[0], [decoded.port(0).to_string()], "A sends it");
    assert!(
        alert[1].iter().all(|outer| outer == "23"),
        "application_data outside: {alert:?}"
    );
    assert_eq!(alert[2].last().unwrap(), "21", "an alert inside");
    assert_eq!(alert[3], ["1"], "a warning");

    // Without the keys, nobody sees one.
    let mut blind = Command::new("tshark");
    blind.arg("-r").arg(&decoded.capture);
    blind.args(["-d", &format!("tcp.port=={},tls", decoded.port(0))]);
    blind.args([
        "-Y",
        &format!(
            "tls.record.content_type == 21 && tcp.port == {}",
            decoded.port(0)
        ),
    ]);
    let output = blind.output().await.unwrap();
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
}

async fn hello_to_b_carries_the_offer(decoded: &Decoded) {
    let hellos = hellos(decoded, 1).await;
    let [first, again] = hellos.as_slice() else {
        panic!("the migration and the used offer presented again: {hellos:?}");
    };
    assert_eq!(first, again);
    // type, IPv4 address and port, session_id, expiry, nonce, signature (docs/protocol.md section 2).
    let token = 1 + 4 + 2 + (1 + 32) + 8 + (1 + 16) + (1 + hash_len(decoded).await);
    // In draft -03 the ticket says it all.
    let token = (mark() == TOKEN).then(|| token.to_string());
    assert_eq!(length_of(first, TOKEN), token.as_deref());
    assert_eq!(length_of(first, ALLOWED), None);
    // B could move the client on.
    offers_support(first);
    assert_eq!(length_of(first, "42"), Some("0"), "early_data");
    assert_eq!(first.0.last().unwrap(), "41", "pre_shared_key is last");
}

/// The output length of the hash that the connection to A agreed on, in bytes.
async fn hash_len(decoded: &Decoded) -> usize {
    let filter = format!(
        "tls.handshake.type == 2 && tcp.srcport == {}",
        decoded.port(0)
    );
    let hellos = decoded
        .packets(&filter, &["tls.handshake.ciphersuite"])
        .await;
    match hellos[0][0][0].as_str() {
        "0x1302" => 48,
        "0x1301" | "0x1303" => 32,
        other => panic!("no suite of TLS 1.3: {other}"),
    }
}

async fn early_data_is_the_request(decoded: &Decoded) {
    let port = decoded.port(1);
    let to_b = format!("tcp.dstport == {port}");
    let fields = ["frame.number", "data.data"];
    let data = decoded.packets(&format!("data && {to_b}"), &fields).await;
    let request = base16ct::lower::encode_string(b"GET file.bin 150000\n");
    assert_eq!(data[0][1], [request], "what tshark decrypts first");
    let end = format!("tls.handshake.type == 5 && {to_b}");
    let ends = decoded.packets(&end, &["frame.number"]).await;
    let number = |field: &[String]| field[0].parse::<u32>().unwrap();
    assert_eq!(ends.len(), 1, "one EndOfEarlyData");
    assert!(
        number(&data[0][0]) < number(&ends[0][0]),
        "the request is early data"
    );
}

async fn only_the_first_use_of_the_offer_resumes(decoded: &Decoded) {
    let filter = format!(
        "tls.handshake.type == 2 && tcp.srcport == {}",
        decoded.port(1)
    );
    let hellos = decoded
        .packets(&filter, &["tls.handshake.extension.type"])
        .await;
    let resumes: Vec<bool> = hellos
        .iter()
        .map(|hello| hello[0].iter().any(|one| one == "41"))
        .collect();
    assert_eq!(resumes, [true, false]);
}
