//! A demo node by HTTP, at the port of its streams: curl and a browser load from it, and `demo-client get --http` follows it.

use std::path::Path;
use std::process::Stdio;

use migration_tests::browser::Browser;
use migration_tests::place::{Held, LONG, Place, SHORT, assert_followed, text};
use migration_tests::programs::{Server, report};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

/// The name in the nodes' certificates.
const NAME: &str = "demo.example";

/// curl that asks a node for these, with the development authority and no other.
fn curl_command(place: &Place, node: &Server, arguments: &[&str], path: &str) -> Command {
    let port = node.address().port();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--path-as-is", "--noproxy", "*", "--cacert"])
        .arg(place.path("state/ca.pem"))
        .args(["--resolve", &format!("{NAME}:{port}:127.0.0.2")])
        .args(arguments)
        .arg(format!("https://{NAME}:{port}{path}"))
        .kill_on_drop(true);
    curl
}

/// What it says.
async fn curl(place: &Place, node: &Server, arguments: &[&str], path: &str) -> String {
    let output = curl_command(place, node, arguments, path).output().await;
    let output = output.expect("curl runs: tools/setup-tests installs it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn curl_loads_from_a_node_by_http_1_1_and_http_2() {
    let place = Place::with_file(SHORT);
    let node = place.node("127.0.0.2", &[]).await;
    let copy = place.path("copy");
    for (version, called) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let arguments = [
            version,
            "-o",
            text(&copy),
            "-w",
            "%{http_code} %{http_version}",
        ];
        let said = curl(&place, &node, &arguments, "/files/file").await;
        assert_eq!(said, format!("200 {called}"));
        assert!(std::fs::read(&copy).unwrap() == place.content());

        let part = [
            version,
            "-r",
            "7-16",
            "-o",
            text(&copy),
            "-w",
            "%{http_code}",
        ];
        assert_eq!(curl(&place, &node, &part, "/files/file").await, "206");
        assert_eq!(std::fs::read(&copy).unwrap(), place.content()[7..17]);

        let upload = format!("@{}", text(&place.path("root/file")));
        let upload = [version, "--data-binary", &upload];
        let said = curl(&place, &node, &upload, "/upload").await;
        assert_eq!(said, format!("{SHORT} {}\n", place.sha256()));

        let about = curl(&place, &node, &[version], "/node").await;
        let about: Value = serde_json::from_str(&about).unwrap();
        assert_eq!(about["node"], node.address().to_string());
        assert_eq!(about["files"], json!(["file"]));

        for outside in ["/files/../secret", "/files/..%2fsecret", "/files/none"] {
            let said = curl(&place, &node, &[version, "-w", "%{http_code}"], outside).await;
            assert_eq!(said.lines().last(), Some("404"), "{outside}: {said}");
        }
    }
    // The same port still speaks the line protocol.
    let output = place.get(node.address(), &[]).output().await.unwrap();
    assert_eq!(report(&output)["sha256"], place.sha256());
}

#[tokio::test]
async fn a_download_by_http_goes_on_at_the_target_of_a_node_that_is_drained() {
    for version in ["1.1", "2"] {
        let place = Place::with_file(LONG);
        let b = place.node("127.0.0.3", &[]).await;
        let to_b = b.address().to_string();
        let more = ["--drain-to", &to_b, "--drain-over", "0"];
        let mut a = place.node("127.0.0.2", &more).await;
        let held = Held::start(&place, a.address(), &["--http", version]).await;
        a.signal("TERM").await;
        // hyper's pool may have opened a second connection.
        a.logged("targets=1").await;
        let (output, copy) = held.release().await;
        assert_followed(&output, &copy, &place);
        a.logged("not_movable=0 forced=0 remaining=0 handed_over=0 left_by_itself=0")
            .await;
        assert_eq!(a.ended().await, Some(0));
    }
}

#[tokio::test]
async fn a_signal_moves_a_download_by_http() {
    let asks = [("01", "migrate_notify"), ("both", "migrate_request")];
    for (dialect, asked_by) in asks {
        let place = Place::with_file(LONG);
        let dialect = ["--dialect", dialect];
        let b = place.node("127.0.0.3", &dialect).await;
        let to_b = ["--migrate-to", &b.address().to_string()];
        let mut a = place.node("127.0.0.2", &[dialect, to_b].concat()).await;
        let more = [dialect, ["--http", "2"]].concat();
        let held = Held::start(&place, a.address(), &more).await;
        a.signal("USR1").await;
        a.logged("moving all live connections").await;
        let (output, copy) = held.release().await;
        assert_followed(&output, &copy, &place);
        assert_eq!(report(&output)["trigger"], asked_by);
    }
}

#[tokio::test]
async fn events_end_behind_one_of_them_when_their_node_is_drained() {
    let place = Place::with_file(SHORT);
    for version in ["--http1.1", "--http2"] {
        let more = ["--drain-to", "127.0.0.3:4433", "--drain-over", "0"];
        let mut node = place.node("127.0.0.2", &more).await;
        let arguments = [version, "-N", "-H", "Last-Event-ID: 41"];
        let mut curl = curl_command(&place, &node, &arguments, "/events");
        let mut curl = curl.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(curl.stdout.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).await.unwrap();
        assert_eq!(first, "id: 42\n");
        node.signal("TERM").await;
        let mut rest = String::new();
        said.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("is here\n\n"), "{rest}");
        assert!(curl.wait().await.unwrap().success());
        node.logged("drained total=1 moved=0 not_movable=1 forced=0")
            .await;
        assert_eq!(node.ended().await, Some(0));
    }
}

#[tokio::test]
async fn a_download_by_http_ends_with_what_the_node_answers() {
    let place = Place::with_file(SHORT);
    let node = place.node("127.0.0.2", &[]).await;
    let missing = place.get_path("none", node.address(), &["--http", "1.1"]);
    assert_status(missing, 2, "none from").await;
    std::fs::write(place.path("root/file"), "").unwrap();
    let empty = place.get(node.address(), &["--http", "2"]).output().await;
    assert_eq!(report(&empty.unwrap())["bytes"], 0);
}

async fn assert_status(mut command: Command, status: i32, said: &str) {
    let output = command.output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{errors}");
    assert!(errors.contains(said), "{errors}");
}

/// The lines of a script that loads a file and says its SHA-256.
fn digest_of(path: &str) -> String {
    format!(
        "const bytes = await (await fetch('{path}')).arrayBuffer();
         const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
         return [...digest].map(byte => byte.toString(16).padStart(2, '0')).join('');"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_loads_a_page_and_files_from_a_node() {
    let place = Place::with_file(SHORT);
    write_page(&place.path("root"));
    let node = place.node("127.0.0.2", &[]).await;
    let browser = Browser::start(NAME, node.address()).await;
    let origin = format!("https://{NAME}:{}", node.address().port());
    browser.goto(&origin).await;
    let address = node.address();
    let shown = format!("document.getElementById('node').textContent == '{address}'");
    browser.until(&shown).await;
    let names = "[...document.querySelectorAll('#files a')].map(link => link.textContent)";
    let names = browser.run(&format!("return {names}")).await;
    assert_eq!(names, json!(["a page.html", "dot.svg", "file"]));
    browser
        .until("document.getElementById('heard').textContent.includes('is here')")
        .await;
    assert_eq!(browser.run(&digest_of("/files/file")).await, place.sha256());
    let protocol = "return performance.getEntriesByType('resource').at(-1).nextHopProtocol";
    assert_eq!(browser.run(protocol).await, "h2");

    // A page of the node's files, with an image beside it.
    browser.click("#files a").await;
    browser.until("document.title == 'a page'").await;
    let image = "document.images[0].complete && document.images[0].naturalWidth";
    assert_eq!(browser.until(image).await, 7);
    browser.quit().await;
}

fn write_page(root: &Path) {
    let page = "<!doctype html><title>a page</title><img src=dot.svg>";
    std::fs::write(root.join("a page.html"), page).unwrap();
    let image = "<svg xmlns='http://www.w3.org/2000/svg' width='7' height='7'/>";
    std::fs::write(root.join("dot.svg"), image).unwrap();
}
