//! Ticket keys of running demo nodes: made and rotated by a command, read again at SIGHUP.

use std::path::PathBuf;

use migration_tests::place::{Held, LONG, Place, text};
use migration_tests::programs::{Server, demo_server, report, signal};
use serde_json::json;

/// Nodes A and B with one key file, which a command made.
struct Nodes {
    place: Place,
    keys: PathBuf,
    a: Server,
    b: Server,
}

impl Nodes {
    async fn start() -> Self {
        let place = Place::with_file(LONG);
        let keys = place.path("ticket.keys");
        command("generate", &keys, &[]).await;
        let own = ["--ticket-keys", text(&keys)];
        let b = place.node("127.0.0.3", &own).await;
        let to_b = b.address().to_string();
        let more = [&own[..], &["--migrate-to", &to_b]].concat();
        let a = place.node("127.0.0.2", &more).await;
        Self { place, keys, a, b }
    }

    /// Rotates the keys, and has the node at B read them.
    async fn rotate(&mut self, keep: &str) {
        command("rotate", &self.keys, &["--keep", keep]).await;
        reload(&mut self.b).await;
    }

    /// Moves the download to B and returns the handshake there.
    async fn moved(&mut self, held: Held) -> serde_json::Value {
        self.a.signal("USR1").await;
        self.a.logged("moving all live connections live=1").await;
        let (output, copy) = held.release().await;
        let report = report(&output);
        assert!(copy == self.place.content(), "{report}");
        let [a, b] = report["legs"].as_array().unwrap().as_slice() else {
            panic!("two legs: {report}");
        };
        assert_eq!(a["server"], self.a.address().to_string());
        assert_eq!(b["server"], self.b.address().to_string());
        b["handshake"].clone()
    }
}

async fn reload(node: &mut Server) {
    node.signal("HUP").await;
    node.logged("ticket keys reloaded").await;
}

async fn command(name: &str, keys: &std::path::Path, more: &[&str]) {
    let arguments = [&["keys", name, "--ticket-keys", text(keys)], more].concat();
    let output = demo_server(arguments).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_live_download_outlives_a_rotation_and_tickets_of_both_keys_are_accepted() {
    // A makes its offer when it tells the client, with the keys that it has then.
    for a_has_read_them in [false, true] {
        let mut nodes = Nodes::start().await;
        let held = Held::start(&nodes.place, nodes.a.address(), &[]).await;
        nodes.rotate("1").await;
        if a_has_read_them {
            reload(&mut nodes.a).await;
        }
        assert_eq!(nodes.moved(held).await, json!("resumed"));
        nodes
            .b
            .logged("arrived with a token, with early data")
            .await;
    }
}

#[tokio::test]
async fn a_ticket_of_a_removed_key_is_refused_and_its_download_lands_in_full() {
    let mut nodes = Nodes::start().await;
    let held = Held::start(&nodes.place, nodes.a.address(), &[]).await;
    nodes.rotate("0").await;
    assert_eq!(nodes.moved(held).await, json!("full"));
    let refused = "a token that is refused: no known key opens the ticket";
    nodes.b.logged(refused).await;
}

#[tokio::test]
async fn a_node_that_watches_its_keys_reads_them_again_by_itself() {
    let place = Place::with_file(1);
    let keys = place.path("ticket.keys");
    command("generate", &keys, &[]).await;
    let own = ["--ticket-keys", text(&keys), "--watch-ticket-keys"];
    let mut node = place.node("127.0.0.2", &own).await;
    command("rotate", &keys, &[]).await;
    node.logged("ticket keys reloaded").await;
}

#[tokio::test]
async fn a_node_that_cannot_read_its_keys_goes_on_with_those_it_has_and_says_why() {
    let mut nodes = Nodes::start().await;
    let held = Held::start(&nodes.place, nodes.a.address(), &[]).await;
    std::fs::write(&nodes.keys, "no key").unwrap();
    nodes.b.signal("HUP").await;
    let why = "ticket keys stay as they were";
    nodes.b.logged(why).await;
    assert_eq!(nodes.moved(held).await, json!("resumed"));
}

#[tokio::test]
async fn mistakes_about_key_files_are_told_in_one_line() {
    let place = Place::with_file(1);
    let (keys, missing) = (place.path("ticket.keys"), place.path("missing"));
    command("generate", &keys, &[]).await;
    let before = std::fs::read(&keys).unwrap();
    for (arguments, expected) in [
        (
            &["keys", "generate", "--ticket-keys", text(&keys)][..],
            "exists",
        ),
        (
            &["keys", "rotate", "--ticket-keys", text(&missing)],
            "missing",
        ),
        (&["keys", "rotate"], "--ticket-keys"),
        (&["keys"], "Make or rotate"),
        (&["--listen", "127.0.0.2:0", "keys", "rotate"], "keys"),
    ] {
        let output = demo_server(arguments).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert_eq!(std::fs::read(&keys).unwrap(), before);
}

/// Who rotates the keys of all nodes need not know which of them are starting.
#[tokio::test]
async fn a_node_that_is_told_to_reload_while_it_starts_goes_on_starting() {
    let store = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let url = format!("redis://{}", store.local_addr().unwrap());
    let place = Place::with_file(LONG);
    let (root, state) = (place.path("root"), place.path("state"));
    let own = ["--root", text(&root), "--state-dir", text(&state)];
    let listening = ["--listen", "127.0.0.3:0", "--nonce-store", &url];
    let arguments = [&own[..], &listening].concat();
    let mut node = demo_server(arguments).spawn().unwrap();
    // It waits for the store's answer.
    let asking = tokio::select! {
        asking = store.accept() => asking.unwrap(),
        ended = node.wait() => panic!("{ended:?}"),
    };
    signal(&node, "HUP").await;
    drop((asking, store));
    let ended = node.wait().await.unwrap();
    assert!(ended.code().is_some(), "the signal ended it: {ended}");
}
