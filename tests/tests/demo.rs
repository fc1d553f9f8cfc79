//! The demo programs as a person runs them: two nodes, a client, and mistakes on the command line.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::place::{Held, LONG, Place, SHORT, text};
use migration_tests::ports::unused;
use migration_tests::programs::{demo_client, demo_server, report};
use migration_tests::relay::Relay;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Checks that the file arrived whole, over exactly these legs: server, and the bytes if they are known.
fn assert_legs(output: &Output, place: &Place, legs: &[(SocketAddr, Option<usize>)]) {
    let report = report(output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["sha256"], place.sha256());
    assert_eq!(report["sha256_expected"], place.sha256());
    assert_eq!(report["bytes"], place.content().len());
    let reported = report["legs"].as_array().unwrap();
    assert_eq!(reported.len(), legs.len(), "{report}");
    for (index, (leg, (server, bytes))) in reported.iter().zip(legs).enumerate() {
        let migrated = index > 0;
        assert_eq!(leg["server"], server.to_string());
        assert_eq!(leg["handshake"], if migrated { "resumed" } else { "full" });
        assert_eq!(leg["early_data"], migrated);
        if let Some(bytes) = bytes {
            assert_eq!(leg["bytes"], *bytes, "{report}");
        }
    }
}

#[tokio::test]
async fn the_hand_off_of_the_programs_own_file_succeeds() {
    let command = demo_client(["handoff", "--mode", "immediate", "--json"]).output();
    let output = command.await.unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["sha256"], report["sha256_expected"]);
    assert_eq!(report["trigger"], "migrate_notify");
    assert_eq!(report["replay"], "refused");
    assert_eq!(report["problems"], json!([]));
    assert!(report["trigger_to_first_byte_us"].as_u64().unwrap() > 0);

    let own = std::fs::metadata(demo_client::<&str>([]).as_std().get_program()).unwrap();
    assert_eq!(report["bytes"], own.len());
    let [a, b] = report["legs"].as_array().unwrap().as_slice() else {
        panic!("two legs: {report}");
    };
    assert!(a["server"].as_str().unwrap().starts_with("127.0.0.2:"));
    assert!(b["server"].as_str().unwrap().starts_with("127.0.0.3:"));
    assert_eq!(
        (&a["handshake"], &a["early_data"]),
        (&json!("full"), &json!(false))
    );
    assert_eq!(
        (&b["handshake"], &b["early_data"]),
        (&json!("resumed"), &json!(true))
    );
    assert_eq!(a["bytes"], own.len() / 2, "A stops exactly in the middle");
    assert_eq!(b["bytes"], own.len() - own.len() / 2);
}

#[tokio::test]
async fn hand_offs_are_made_in_the_other_dialect_as_well() {
    let place = Place::with_file(SHORT);
    let file = place.path("root/file");
    for dialect in ["03", "both"] {
        for mode in ["immediate", "drain", "overlap"] {
            let options = ["handoff", "--json", "--hops", "2", "--file", text(&file)];
            let choice = ["--dialect", dialect, "--mode", mode];
            let command = demo_client([&options[..], &choice].concat()).output();
            let output = command.await.unwrap();
            let report = report(&output);
            assert_eq!(output.status.code(), Some(0), "{dialect} {mode}: {report}");
            assert_eq!(report["replay"], "refused", "{dialect} {mode}");
            assert_eq!(report["trigger"], "migrate_request", "{dialect} {mode}");
            assert_eq!(report["legs"].as_array().unwrap().len(), 3);
        }
    }
}

#[tokio::test]
async fn the_hand_off_of_the_shortest_file_gives_each_node_a_byte() {
    let place = Place::with_file(2);
    let file = place.path("root/file");
    let command = demo_client([
        "handoff",
        "--mode",
        "immediate",
        "--json",
        "--file",
        text(&file),
    ])
    .output();
    let report = report(&command.await.unwrap());
    assert_eq!(report["sha256"], place.sha256());
    assert_eq!(report["legs"][0]["bytes"], 1);
    assert_eq!(report["legs"][1]["bytes"], 1);
    assert_eq!(report["problems"], json!([]));
}

#[tokio::test]
async fn the_hand_off_prints_a_timeline_of_both_legs() {
    let place = Place::with_file(SHORT);
    let file = place.path("root/file");
    let output = demo_client(["handoff", "--mode", "immediate", "--file", text(&file)])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines = printed.lines();
    for expected in [
        ["127.0.0.2:", "full handshake"],
        ["127.0.0.2:", "150,000 bytes, then migrate_notify"],
        ["127.0.0.3:", "resumed handshake, the request as early data"],
        ["127.0.0.3:", "µs after the trigger"],
        ["127.0.0.3:", "150,000 bytes, the end"],
        ["", ""],
        ["bytes", "300,000"],
        ["sha256", "as expected"],
        ["replay", "refused"],
    ] {
        let line = lines.next().unwrap();
        assert!(expected.iter().all(|part| line.contains(part)), "{printed}");
    }
    assert_eq!(lines.next(), None);
    assert!(
        output.stderr.is_empty(),
        "no progress bar without a terminal"
    );
}

#[tokio::test]
async fn a_node_moves_its_client_after_a_number_of_bytes() {
    let place = Place::with_file(SHORT);
    let (a, b) = place.nodes(&["--migrate-after", "100000"]).await;
    let copy = place.path("copy");
    let get = place.get(a.address(), &["--output", text(&copy)]).output();
    let output = get.await.unwrap();
    assert_legs(
        &output,
        &place,
        &[(a.address(), Some(100_000)), (b.address(), Some(200_000))],
    );
    assert_eq!(report(&output)["trigger"], "migrate_notify");
    assert_eq!(std::fs::read(&copy).unwrap(), place.content());
}

#[tokio::test]
async fn a_client_moves_by_its_own_decision() {
    let place = Place::with_file(LONG);
    let (a, b) = place.nodes(&[]).await;
    let get = place
        .get(a.address(), &["--migrate-after", "1000000"])
        .output();
    let output = get.await.unwrap();
    assert_legs(&output, &place, &[(a.address(), None), (b.address(), None)]);
    assert_eq!(report(&output)["trigger"], "client");
    assert!(report(&output)["legs"][0]["bytes"].as_u64().unwrap() >= 1_000_000);
}

#[tokio::test]
async fn a_signal_moves_a_live_download() {
    let place = Place::with_file(LONG);
    let (mut a, b) = place.nodes(&[]).await;
    let held = Held::start(&place, a.address(), &[]).await;
    a.signal("USR1").await;
    a.logged("moving all live connections live=1").await;
    let (output, copy) = held.release().await;
    assert_legs(&output, &place, &[(a.address(), None), (b.address(), None)]);
    assert_eq!(report(&output)["trigger"], "migrate_notify");
    assert!(copy == place.content());
}

#[tokio::test]
async fn a_typed_word_moves_a_live_download() {
    let place = Place::with_file(LONG);
    let (mut a, b) = place.nodes(&[]).await;
    let held = Held::start(&place, a.address(), &[]).await;
    a.enter("migrate").await;
    a.logged("moving all live connections live=1").await;
    let (output, copy) = held.release().await;
    assert_legs(&output, &place, &[(a.address(), None), (b.address(), None)]);
    assert!(copy == place.content());
}

/// Checks that the file arrived whole, and that the node at A handed it over to the node at B.
fn assert_handed_over(output: &Output, copy: &[u8], place: &Place, a: SocketAddr, b: SocketAddr) {
    let report = report(output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(copy == place.content());
    assert_eq!(report["sha256"], place.sha256());
    assert_eq!(report["trigger"], "migrate_notify");
    let legs = report["legs"].as_array().unwrap();
    let way: Vec<_> = legs
        .iter()
        .map(|leg| (leg["server"].clone(), leg["handshake"].clone()))
        .collect();
    let expected = [
        (json!(a.to_string()), json!("full")),
        (json!(b.to_string()), json!("resumed")),
    ];
    assert_eq!(way, expected, "{report}");
}

#[tokio::test]
async fn a_download_that_follows_by_itself_is_handed_over_after_a_number_of_bytes() {
    let place = Place::with_file(SHORT);
    let (a, b) = place.nodes(&["--migrate-after", "100000"]).await;
    let copy = place.path("copy");
    let arguments = ["--mode", "drain", "--output", text(&copy)];
    let output = place.get(a.address(), &arguments).output().await.unwrap();
    let copy = std::fs::read(&copy).unwrap();
    assert_handed_over(&output, &copy, &place, a.address(), b.address());
    let report = report(&output);
    assert_eq!(report["legs"][0]["bytes"], 100_000, "{report}");
    assert_eq!(report["legs"][1]["bytes"], SHORT - 100_000, "{report}");
}

#[tokio::test]
async fn a_download_that_follows_by_itself_is_handed_over_at_a_signal() {
    let place = Place::with_file(LONG);
    let (mut a, b) = place.nodes(&[]).await;
    let held = Held::start(&place, a.address(), &["--mode", "drain"]).await;
    a.signal("USR1").await;
    a.logged("moving all live connections live=1").await;
    let (output, copy) = held.release().await;
    assert_handed_over(&output, &copy, &place, a.address(), b.address());
}

#[tokio::test]
async fn a_download_that_follows_by_itself_is_handed_over_at_a_typed_word() {
    let place = Place::with_file(LONG);
    let (mut a, b) = place.nodes(&[]).await;
    let held = Held::start(&place, a.address(), &["--mode", "drain"]).await;
    a.enter("migrate").await;
    a.logged("moving all live connections live=1").await;
    let (output, copy) = held.release().await;
    assert_handed_over(&output, &copy, &place, a.address(), b.address());
}

#[tokio::test]
async fn a_target_that_comes_a_second_late_is_waited_for() {
    for mode in ["immediate", "drain"] {
        let place = Place::with_file(LONG);
        let late = unused("127.0.0.3");
        let to_late = late.to_string();
        let b = place.node("127.0.0.4", &["--answers-for", &to_late]).await;
        let mut a = place.node("127.0.0.2", &["--migrate-to", &to_late]).await;
        let held = Held::start(&place, a.address(), &["--mode", mode]).await;
        a.signal("USR1").await;
        a.logged("moving all live connections live=1").await;
        let download = tokio::spawn(held.release());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _relay = Relay::at(late, b.address()).await;
        let (output, copy) = download.await.unwrap();
        assert_handed_over(&output, &copy, &place, a.address(), late);
    }
}

#[tokio::test]
async fn when_the_target_is_gone_the_download_completes_and_the_status_says_so() {
    let place = Place::with_file(LONG);
    let gone = unused("127.0.0.3").to_string();
    let mut a = place.node("127.0.0.2", &["--migrate-to", &gone]).await;
    let held = Held::start(&place, a.address(), &[]).await;
    a.signal("USR1").await;
    a.logged("moving all live connections").await;
    let (output, copy) = held.release().await;
    assert!(copy == place.content());
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    assert_eq!(report["sha256"], place.sha256());
    let problem = report["problems"][0].as_str().unwrap();
    assert!(problem.contains("could not be reached"), "{problem}");
    let legs = report["legs"].as_array().unwrap();
    assert_eq!(legs.len(), 2, "{report}");
    for leg in legs {
        assert_eq!(leg["server"], a.address().to_string());
    }
}

#[tokio::test]
async fn nodes_take_certificates_with_rsa_and_ec_keys() {
    for kind in [
        &["rsa:2048"][..],
        &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    ] {
        let place = Place::with_file(SHORT);
        let (cert, key) = (place.path("cert.pem"), place.path("key.pem"));
        let (cert, key) = (text(&cert), text(&key));
        let made = tokio::process::Command::new("openssl")
            .args([
                "req", "-x509", "-nodes", "-subj", "/CN=own", "-out", cert, "-keyout", key,
            ])
            .args(["-addext", "subjectAltName=DNS:own.example"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-newkey"])
            .args(kind)
            .output()
            .await
            .expect("openssl runs; apt-get install -y openssl");
        assert!(made.status.success(), "{made:?}");
        let own = ["--cert", cert, "--key", key];
        let b = place.node("127.0.0.3", &own).await;
        let to_b = b.address().to_string();
        let moving = ["--migrate-to", &to_b, "--migrate-after", "1"];
        let a = place.node("127.0.0.2", &[&own[..], &moving].concat()).await;
        let trusting = ["--ca", cert, "--server-name", "own.example"];
        let output = place.get(a.address(), &trusting).output().await.unwrap();
        assert_legs(
            &output,
            &place,
            &[(a.address(), Some(1)), (b.address(), Some(SHORT - 1))],
        );
    }
}

#[tokio::test]
async fn bad_connections_do_not_disturb_a_node() {
    let place = Place::with_file(SHORT);
    let mut node = place.node("127.0.0.2", &[]).await;
    for sent in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[22, 3, 1, 0xff, 0xff, 1],
        &[0; 4096],
    ] {
        let mut tcp = TcpStream::connect(node.address()).await.unwrap();
        tcp.write_all(sent).await.unwrap();
        drop(tcp);
        node.logged("failed").await;
    }
    let output = place.get(node.address(), &[]).output().await.unwrap();
    assert_legs(&output, &place, &[(node.address(), Some(SHORT))]);
    node.signal("TERM").await;
    assert_eq!(node.ended().await, Some(0));
}

#[tokio::test]
async fn a_node_whose_log_nobody_reads_serves_and_ends() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let place = Place::with_file(SHORT);
    let node = place.node("127.0.0.2", &[]).await;
    // Each leaves a line in the log: in all more than a pipe holds, 64 KiB.
    for _ in 0..3000 {
        let mut tcp = TcpStream::connect(node.address()).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // It has been refused when the node closes.
        let closed = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut Vec::new())).await;
        let _ = closed.expect("the node goes on");
    }
    let get = place.get(node.address(), &[]).output();
    let output = tokio::time::timeout(PATIENCE, get).await;
    let output = output.expect("the node serves").unwrap();
    assert_legs(&output, &place, &[(node.address(), Some(SHORT))]);
    node.signal("TERM").await;
    let ended = tokio::time::timeout(PATIENCE, node.ended()).await;
    assert_eq!(ended.expect("the node ends"), Some(0));
}

#[tokio::test]
async fn a_stock_client_has_its_echo_and_is_never_told_to_move() {
    let place = Place::with_file(SHORT);
    let (mut a, _b) = place.nodes(&[]).await;
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(place.path("state/ca.pem")).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(a.address()).await.unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), tcp)
        .await
        .unwrap();
    let mut buf = [0; 5];
    tls.write_all(b"ECHO\nfirst").await.unwrap();
    tls.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"first");
    a.signal("USR1").await;
    a.logged("cannot be moved").await;
    tls.write_all(b"after").await.unwrap();
    tls.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"after");
    tls.shutdown().await.unwrap();
    assert_eq!(tls.read(&mut buf).await.unwrap(), 0);
}

/// Checks that the program ends with status 2 and says why in one line that has `expected` in it.
fn assert_usage_error(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.starts_with("error: ") && said.contains(expected),
        "{said}"
    );
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn a_servers_user_is_told_of_a_mistake_in_one_line() {
    let place = Place::with_file(SHORT);
    let holder = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let state = place.path("state");
    let garbage = place.path("secret");
    let (state, garbage) = (text(&state), text(&garbage));
    let garbage_store = format!("file:{garbage}");
    let free = "127.0.0.2:0";
    for (arguments, expected) in [
        (&["--nonsense"][..], "--nonsense"),
        (&[], "--listen"),
        (&["--listen", "nowhere"], "nowhere"),
        (&["--listen", &taken], "in use"),
        (&["--listen", free, "--root", "/nowhere"], "/nowhere"),
        (&["--listen", free, "--cert", garbage], "--key"),
        (
            &["--listen", free, "--cert", garbage, "--key", garbage],
            garbage,
        ),
        (&["--listen", free, "--ticket-keys", garbage], garbage),
        (
            // Nobody may make a folder there.
            &["--listen", free, "--ticket-keys", "/proc/nowhere/keys"],
            "/proc/nowhere/keys",
        ),
        (&["--listen", free, "--nonce-store", "disk"], "file:PATH"),
        (
            &["--listen", free, "--nonce-store", &garbage_store],
            "not a nonce file",
        ),
        (
            &["--listen", free, "--key-log", "/nowhere/keys"],
            "/nowhere/keys",
        ),
        (&["--listen", free, "--migrate-after", "1"], "--migrate-to"),
        (
            &["--listen", free, "--drain-to", "127.0.0.3:1=0"],
            "--drain-to",
        ),
    ] {
        let mut command = demo_server(["--state-dir", state]);
        assert_usage_error(&command.args(arguments).output().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_clients_user_is_told_of_a_mistake_in_one_line() {
    let place = Place::with_file(1);
    let node = place.node("127.0.0.2", &[]).await;
    let short = place.path("root/file");
    for (arguments, expected) in [
        (&["nonsense"][..], "nonsense"),
        (&["handoff", "--file", "/nowhere"], "/nowhere"),
        (&["handoff", "--file", "/"], "not a file"),
        (&["handoff", "--file", text(&short)], "at least 64 bytes"),
        (&["handoff", "--hops", "0"], "--hops"),
        (&["handoff", "--mode", "fast"], "--mode"),
        (&["handoff", "--key-log", "/nowhere/keys"], "/nowhere/keys"),
        (&["get", "file"], "--connect"),
        (
            &[
                "get",
                "file",
                "--connect",
                "127.0.0.2:1",
                "--ca",
                "/nowhere",
            ],
            "/nowhere",
        ),
    ] {
        assert_usage_error(&demo_client(arguments).output().await.unwrap(), expected);
    }
    for more in [&[][..], &["--kill"]] {
        let mut command = demo_client(["handoff"]);
        command.args(more).env("TMPDIR", "/nowhere");
        assert_usage_error(&command.output().await.unwrap(), "/nowhere (TMPDIR)");
    }
    for path in ["missing", "../secret", "/../secret"] {
        let get = place.get_path(path, node.address(), &[]).output();
        assert_usage_error(&get.await.unwrap(), "no such file");
    }
    let get = place
        .get(node.address(), &["--server-name", "a b"])
        .output();
    assert_usage_error(&get.await.unwrap(), "--server-name");
}
