//! The operator's page in a browser: a click drains a node, and shows how its clients go to another one.
//!
//! `PAGE_SCREENSHOT=FILE` leaves a picture of its middle: that of docs/page.png was taken so.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use migration_tests::browser::{Browser, plain_client};
use migration_tests::place::{Place, SHORT};
use rustls_migration::tokio::{HandOff, MigrationStream};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

const CLIENTS: usize = 200;
const OPERATOR: [&str; 2] = ["--operator", "127.0.0.1:0"];

/// Has words echoed until it is told to stop. Returns how many, and where it is then.
async fn converse(
    mut stream: MigrationStream,
    mut stop: watch::Receiver<bool>,
) -> (usize, SocketAddr) {
    let mut echoed = 0;
    let handle = stream.handle();
    stream.write_all(b"ECHO\n").await.unwrap();
    while !*stop.borrow_and_update() {
        let word = format!("{echoed:08}");
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut echo = [0; 8];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, word.as_bytes());
        echoed += 1;
        sleep(Duration::from_millis(200)).await;
    }
    (echoed, handle.peer_addr())
}

/// Keeps all that the page says from now on.
const LISTEN: &str = "
    const says = document.getElementById('says');
    window.said = [];
    new MutationObserver(() => said.push(says.textContent)).observe(says, { childList: true });";

/// How many had moved whenever the page said it.
const MOVED: &str = "
    return said.filter(text => text.startsWith('Draining: ')).map(text => +text.split(' ')[1])";

/// Takes a picture when some clients have moved, if it is wanted.
async fn take_picture(browser: &Browser) {
    if let Some(path) = std::env::var_os("PAGE_SCREENSHOT") {
        let middle = format!("{} < 130 && {} > 60", dots(0, "i"), dots(1, ".moved"));
        browser.until(&middle).await;
        browser.screenshot(Path::new(&path)).await;
    }
}

/// How many connections of a kind are shown at a node, as an expression.
fn dots(node: usize, kind: &str) -> String {
    format!("document.querySelectorAll('article')[{node}].querySelectorAll('.dots {kind}').length")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_click_drains_a_node_of_200_clients_and_the_page_shows_it_to_its_end() {
    let place = Place::with_file(SHORT);
    let mut b = place.node("127.0.0.3", &OPERATOR).await;
    let (to_b, at_b) = (b.address().to_string(), b.operator_url().await);
    let drain = ["--drain-to", &to_b, "--drain-over", "6"];
    // It stays until the page has shown its end.
    let stays = ["--drain-deadline", "60", "--operator-linger", "600"];
    let peer = ["--operator-peer", &at_b];
    let mut a = place
        .node(
            "127.0.0.2",
            &[&OPERATOR[..], &drain, &peer, &stays].concat(),
        )
        .await;
    let page = a.operator_url().await;

    let connector = place.connector().hand_off(HandOff::Drain);
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let name = "localhost".try_into().unwrap();
        let stream = connector.connect(name, a.address()).await.unwrap();
        clients.spawn(converse(stream, stopped.clone()));
    }

    let browser = Browser::start("localhost", a.address()).await;
    browser.goto(&page).await;
    let says = |text: &str| format!("document.getElementById('says').textContent == '{text}'");
    browser.until(&says("Serving 200 clients")).await;
    let both = format!("{} == 200 && {} == 0", dots(0, ".new"), dots(1, "i"));
    browser.until(&both).await;
    browser
        .until("document.documentElement.scrollHeight <= innerHeight")
        .await;
    browser.run(LISTEN).await;

    browser.click("#drain").await;
    take_picture(&browser).await;
    browser
        .until(&says("Drained: 200 of 200 clients moved"))
        .await;
    let there = format!("{} == 200 && {} == 0", dots(1, ".moved"), dots(0, "i"));
    browser.until(&there).await;
    let moved = browser.run(MOVED).await;
    let moved: Vec<_> = moved
        .as_array()
        .unwrap()
        .iter()
        .map(Value::as_u64)
        .collect();
    assert!(moved.is_sorted(), "{moved:?}");
    assert!(
        moved
            .iter()
            .any(|count| (50..=150).contains(&count.unwrap())),
        "{moved:?}"
    );
    a.logged("drained total=200 moved=200 not_movable=0 forced=0 remaining=0")
        .await;
    a.signal("INT").await;
    assert_eq!(a.ended().await, Some(0));
    browser.quit().await;

    stop.send_replace(true);
    while let Some(client) = clients.join_next().await {
        let (echoed, at) = client.unwrap();
        assert!(echoed > 0);
        assert_eq!(at, b.address());
    }
}

#[tokio::test]
async fn only_who_knows_the_token_sees_the_page_or_drains_the_node() {
    let place = Place::with_file(SHORT);
    let mut node = place.node("127.0.0.2", &OPERATOR).await;
    let url = node.operator_url().await;
    let http = plain_client();
    let (origin, token) = url.trim_end_matches('/').rsplit_once('/').unwrap();
    let wrong = "0".repeat(token.len());
    for path in ["", "peers", "events"] {
        let shown = http.get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(shown.status(), 200, "{path}");
        for said in [&wrong, "", &token[1..]] {
            let refused = http.get(format!("{origin}/{said}/{path}")).send().await;
            assert_eq!(refused.unwrap().status(), 404, "{said} {path}");
        }
    }
    let refused = http.post(format!("{origin}/{wrong}/drain")).send().await;
    assert_eq!(refused.unwrap().status(), 404);
    let begun = http.post(format!("{url}drain")).send().await.unwrap();
    assert_eq!(begun.status(), 202);
    node.logged("drained total=0").await;
    assert_eq!(node.ended().await, Some(0));
}
