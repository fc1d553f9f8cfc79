//! What is on the wire, as tshark sees it with the key log.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use quinn::EndpointConfig;
use quinn_migration::Codepoints;
use quinn_migration::wire::next_frame;

use crate::opened::{KeyLog, Opener};
use crate::support::{Identity, PATIENCE, Server, World, client_with};

/// The project's own dissector.
const DISSECTOR: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tools/wireshark/migration.lua"
);

const INSTALL: &str = "tshark is missing or may not capture: as root, `apt-get install tshark`";

/// tshark learns connection IDs from NEW_CONNECTION_ID frames, and the advertised one is in none, so tshark cannot tell
/// whose packets those of the client on the new path are. This test opens the first of them with the logged secret.
fn check_challenge(packets: &[Packet], new: SocketAddr, opener: &Opener) {
    let towards = |packet: &&Packet| packet.destination == new.to_string();
    let challenge = packets.iter().find(towards).expect("no challenge");
    let datagram = base16ct::lower::decode_vec(&challenge.payload).unwrap();
    let opened = opener.open(&datagram, 8);
    assert_eq!(
        opened.number_length, 4,
        "packets on the other path may overtake it"
    );
    let alternate = Codepoints::default().frame();
    // An acknowledgement that quinn has put before it becomes PADDING.
    let padding = opened.payload.iter().take_while(|byte| **byte == 0).count();
    let frame = next_frame(&opened.payload, padding, alternate).unwrap();
    assert_eq!(frame.kind, PATH_CHALLENGE);
    let rest = &opened.payload[frame.whole.end..];
    assert!(rest.iter().all(|byte| *byte == 0), "more than a challenge");
    let data = base16ct::lower::encode_string(&opened.payload[frame.body]);
    let answered = |packet: &Packet| packet.source == new.to_string() && packet.responses == data;
    assert!(packets.iter().any(answered), "{data} is not answered");
}

/// The port that marks in the capture are sent to. Nobody listens there.
const MARKS: u16 = 9;

/// A running capture on the loopback interface.
struct Capture {
    tshark: Child,
    file: PathBuf,
}

impl Capture {
    /// Captures what comes from and goes to `ports`, and nothing of other tests: so much could not all be captured.
    async fn start(file: PathBuf, ports: [u16; 2]) -> Self {
        let [one, other] = ports;
        let filter = format!("udp and (port {one} or port {other} or port {MARKS})");
        let tshark = Command::new("tshark")
            .args(["-i", "lo", "-f", &filter, "-q", "-w"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(INSTALL);
        let mut capture = Self { tshark, file };
        capture.mark(b"the capture has begun").await;
        capture
    }

    /// Sends a datagram until the capture file holds it: everything before it is in the file too.
    async fn mark(&mut self, mark: &[u8]) {
        let socket = super::support::bind("127.0.2.9:0");
        let holds = |file: &Path| {
            std::fs::read(file).is_ok_and(|bytes| bytes.windows(mark.len()).any(|at| at == mark))
        };
        let marking = async {
            while !holds(&self.file) {
                assert!(self.tshark.try_wait().unwrap().is_none(), "{INSTALL}");
                socket.send_to(mark, ("127.0.2.9", MARKS)).unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, marking)
            .await
            .expect(INSTALL);
    }

    async fn stop(mut self) {
        self.mark(b"the capture is over").await;
        let id = self.tshark.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.tshark.wait().unwrap().success());
    }
}

/// One packet in a decoded capture.
#[derive(Debug)]
struct Packet {
    source: String,
    destination: String,
    frames: Vec<u64>,
    parameters: Vec<u64>,
    /// Data of the PATH_RESPONSE frames, in hexadecimal digits.
    responses: String,
    /// Sequence numbers in the NEW_CONNECTION_ID frames.
    issued: Vec<u64>,
    /// The datagram in hexadecimal digits.
    payload: String,
}

impl Packet {
    /// Whether a server is at one end: other processes may use the same addresses.
    fn is_at(&self, ports: &[u16]) -> bool {
        let ends: [SocketAddr; 2] =
            [&self.source, &self.destination].map(|end| end.parse().unwrap());
        ends.iter().any(|end| ports.contains(&end.port()))
    }

    /// Destination connection ID of a 1-RTT packet; all of them have 8 bytes here.
    fn short_header_id(&self) -> Option<&str> {
        let first = u8::from_str_radix(self.payload.get(..2)?, 16).unwrap();
        (first & 0x80 == 0).then(|| &self.payload[2..18])
    }
}

/// What tshark finds in a capture.
struct Decoded<'a> {
    capture: &'a Path,
    keys: &'a Path,
    ports: [u16; 2],
}

impl Decoded<'_> {
    /// The values of `fields` in each packet that `filter` selects, joined by semicolons.
    fn lines(&self, filter: &str, fields: &[&str]) -> Vec<String> {
        let mut command = Command::new("tshark");
        command
            .args(["-X", &format!("lua_script:{DISSECTOR}"), "-r"])
            .arg(self.capture)
            .arg("-o")
            .arg(format!("tls.keylog_file:{}", self.keys.display()));
        for port in self.ports {
            command.args(["-d", &format!("udp.port=={port},quic")]);
        }
        command.args(["-Y", filter, "-T", "fields", "-E", "separator=;"]);
        command.args(fields.iter().flat_map(|field| ["-e", field]));
        let output = command.output().expect(INSTALL);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(str::to_owned).collect()
    }

    fn packets(&self) -> Vec<Packet> {
        let fields = [
            "ip.src",
            "udp.srcport",
            "ip.dst",
            "udp.dstport",
            "quic.frame_type",
            "tls.quic.parameter.type",
            "quic.path_response.data",
            "quic.nci.sequence",
            "udp.payload",
        ];
        let packets = self.lines("udp", &fields);
        let packets = packets.iter().map(|line| packet(line));
        packets.filter(|packet| packet.is_at(&self.ports)).collect()
    }
}

/// The fields of the frame and the parameter, as the dissector shows them.
fn check_dissector(decoded: &Decoded<'_>, packets: &[Packet], new: SocketAddr) {
    let fields = ["sequence", "ipv4", "ipv6", "connection_id"];
    let fields = fields.map(|field| format!("migration.quic.alternate.{field}"));
    let fields: Vec<_> = fields.iter().map(String::as_str).collect();
    let frames = decoded.lines("migration.quic.alternate", &fields);
    let towards = |packet: &&Packet| packet.destination == new.to_string();
    let used = packets
        .iter()
        .filter(towards)
        .find_map(Packet::short_header_id);
    // It is sent again when the acknowledgement is late.
    let expected = format!("1;{new};;{}", used.unwrap());
    assert!(!frames.is_empty() && frames.iter().all(|frame| *frame == expected));
    assert!(
        !decoded
            .lines("migration.quic.enabled", &["udp.dstport"])
            .is_empty()
    );
    assert!(
        decoded
            .lines("migration.malformed", &["frame.number"])
            .is_empty()
    );
}

fn packet(line: &str) -> Packet {
    let fields: Vec<&str> = line.split(';').collect();
    let [
        source,
        from,
        destination,
        to,
        frames,
        parameters,
        responses,
        issued,
        payload,
    ] = fields[..]
    else {
        panic!("{line}")
    };
    let numbers = |list: &str| {
        let parse = |number: &str| match number.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
            None => number.parse().unwrap(),
        };
        list.split(',')
            .filter(|number| !number.is_empty())
            .map(parse)
            .collect()
    };
    Packet {
        source: format!("{source}:{from}"),
        destination: format!("{destination}:{to}"),
        frames: numbers(frames),
        parameters: numbers(parameters),
        responses: responses.to_owned(),
        issued: numbers(issued),
        payload: payload.to_owned(),
    }
}

const PARAMETER: u64 = 0x5a_a00b;
const FRAME: u64 = 0x5a_a00a;
const NEW_CONNECTION_ID: u64 = 0x18;
const PATH_CHALLENGE: u64 = 0x1a;
const PATH_RESPONSE: u64 = 0x1b;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tshark_decodes_the_parameter_the_frame_the_challenge_and_the_response() {
    let directory = tempfile::tempdir().unwrap();
    let in_directory = |name: &str| directory.path().join(name);
    let (file, keys) = (in_directory("move.pcapng"), in_directory("keys"));
    let identity = Identity::new();
    let log = Arc::new(KeyLog::default());
    let mut tls = identity.client_tls();
    tls.key_log = log.clone();
    let server = Server::on(&identity, &["127.0.2.2:0", "127.0.2.3:0"]);
    let client = client_with(tls, EndpointConfig::default(), "127.0.2.1:0");
    let (old, new) = (server.address(0), server.address(1));
    let ports = [old.port(), new.port()];
    let capture = Capture::start(file.clone(), ports).await;
    let mut world = World::between(server, client, old).await;
    world.echo().await;
    world.move_to(new).await;
    world.echo().await;
    world.answered_on_the_path_left().await;
    world.ours.close(0u32.into(), b"");
    world.client.endpoint().wait_idle().await;
    capture.stop().await;
    let secrets = log.text();
    std::fs::write(&keys, &secrets).unwrap();
    let decoded = Decoded {
        capture: &file,
        keys: &keys,
        ports,
    };
    let packets = decoded.packets();
    check_handshake_and_frame(&packets, old);
    check_new_path(&packets, new, old);
    check_old_path(&packets, old);
    check_challenge(&packets, new, &Opener::of_client(&secrets));
    check_dissector(&decoded, &packets, new);
}

fn check_handshake_and_frame(packets: &[Packet], old: SocketAddr) {
    let with_parameter: Vec<_> = packets
        .iter()
        .filter(|packet| packet.parameters.contains(&PARAMETER))
        .collect();
    assert!(
        !with_parameter.is_empty(),
        "no ClientHello with the parameter"
    );
    assert!(
        with_parameter
            .iter()
            .all(|packet| packet.destination == old.to_string()),
        "a server sent the parameter"
    );
    let advertising: Vec<_> = packets
        .iter()
        .filter(|packet| packet.frames.contains(&FRAME))
        .collect();
    let from_old = |packet: &&Packet| packet.source == old.to_string();
    assert!(
        !advertising.is_empty() && advertising.iter().all(from_old),
        "{advertising:#?}"
    );
    let issued = |packet: &&Packet| {
        packet.source == old.to_string() && packet.frames.contains(&NEW_CONNECTION_ID)
    };
    let issued = packets.iter().filter(issued);
    let issued: HashSet<u64> = issued.flat_map(|packet| packet.issued.clone()).collect();
    assert_eq!(
        issued.len(),
        3,
        "quinn issues four connection IDs and one is kept for the advertisement"
    );
    let datagram = |packet: &Packet| {
        packet
            .frames
            .iter()
            .any(|frame| [0x30, 0x31].contains(frame))
    };
    assert!(
        !packets
            .iter()
            .any(|packet| !packet.frames.contains(&FRAME) && datagram(packet)),
        "a placeholder is on the wire"
    );
}

/// quinn's server asks the old path too whether it still works. The answer goes there, alone (fault 14; RFC 9000 section
/// 8.2.2).
fn check_old_path(packets: &[Packet], old: SocketAddr) {
    let asks = |packet: &Packet| {
        packet.source == old.to_string() && packet.frames.contains(&PATH_CHALLENGE)
    };
    let asked = packets.iter().position(asks).expect("no challenge");
    let later = packets.iter().skip(asked);
    let answer = |packet: &&Packet| {
        packet.destination == old.to_string() && packet.frames.contains(&PATH_RESPONSE)
    };
    let answers: Vec<_> = later.filter(answer).collect();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    // PADDING may stand before it too, in the place of an acknowledgement.
    let mut frames = answers[0].frames.clone();
    frames.retain(|frame| *frame != 0);
    assert_eq!(frames, [PATH_RESPONSE]);
    assert!(answers[0].payload.len() / 2 >= 1200);
}

fn check_new_path(packets: &[Packet], new: SocketAddr, old: SocketAddr) {
    let at =
        |wanted: &dyn Fn(&Packet) -> bool| packets.iter().position(wanted).expect("no such packet");
    let first = at(&|packet| packet.destination == new.to_string());
    assert!(
        packets[first].payload.len() / 2 >= 1200,
        "{:?}",
        packets[first]
    );
    let response = at(&|packet| packet.source == new.to_string());
    assert!(first < response, "the server spoke first");
    assert_eq!(
        packets[response].frames,
        [PATH_RESPONSE, 0],
        "{:?}",
        packets[response]
    );
    at(&|packet| packet.source == new.to_string() && packet.frames.contains(&PATH_CHALLENGE));
    let until_answered = &packets[first + 1..response];
    let early =
        |packet: &Packet| packet.destination == new.to_string() && packet.payload.len() / 2 < 1200;
    assert!(
        !until_answered.iter().any(early),
        "more than challenges were sent"
    );
    // No connection ID is on both paths, in either direction (RFC 9000 section 9.5).
    for toward_server in [true, false] {
        let on = |path: SocketAddr| -> HashSet<&str> {
            let end = |packet: &Packet| {
                if toward_server {
                    packet.destination.clone()
                } else {
                    packet.source.clone()
                }
            };
            packets
                .iter()
                .filter(|packet| end(packet) == path.to_string())
                .filter_map(Packet::short_header_id)
                .collect()
        };
        let (on_old, on_new) = (on(old), on(new));
        assert!(!on_old.is_empty() && !on_new.is_empty());
        assert!(
            on_old.is_disjoint(&on_new),
            "linkable: {on_old:?} and {on_new:?}"
        );
    }
}
