//! The operator's side of a demo node: what it measures is in order, true, and not for everybody.

use migration_tests::metrics::{get, scrape, scrape_at_rest, sum, value};
use migration_tests::place::{Place, SHORT};
use migration_tests::program::Program;
use migration_tests::programs::{demo_server, report};

const OPERATOR: [&str; 2] = ["--operator", "127.0.0.1:0"];

#[tokio::test]
async fn promtool_finds_nothing_amiss_with_nodes_that_have_moved_a_client_and_the_numbers_are_right()
 {
    let place = Place::with_file(SHORT);
    let mut b = place.node("127.0.0.3", &OPERATOR).await;
    let to_b = b.address().to_string();
    let moves = ["--migrate-to", &to_b, "--migrate-after", "1000"];
    let mut a = place
        .node("127.0.0.2", &[&OPERATOR[..], &moves].concat())
        .await;
    let output = place.get(a.address(), &[]).output().await.unwrap();
    let report = report(&output);
    assert_eq!(report["legs"].as_array().unwrap().len(), 2, "{report}");
    let [at_a, at_b] = [a.operator().await, b.operator().await];
    let at_a = scrape_at_rest(at_a).await.unwrap();
    let at_b = scrape_at_rest(at_b).await.unwrap();
    for metrics in [&at_a, &at_b] {
        let mut promtool = Program::start("promtool", ["check", "metrics"]);
        promtool.say(metrics).await;
        assert_eq!(promtool.finish().await, "", "{metrics}");
    }
    let counted = |metrics: &str, name: &str, labels: &str| {
        let sample = format!("rustls_migration_{name}{labels}");
        value(metrics, &sample).unwrap_or_else(|| panic!("no {sample} in {metrics}"))
    };
    assert_eq!(counted(&at_a, "arrivals_total", "{verdict=\"Fresh\"}"), 1.0);
    assert_eq!(counted(&at_a, "notices_total", "{kind=\"stream\"}"), 1.0);
    assert_eq!(
        counted(&at_b, "arrivals_total", "{verdict=\"Migrated\"}"),
        1.0
    );
    assert_eq!(counted(&at_b, "early_data_total", ""), 1.0);
    assert_eq!(counted(&at_b, "commits_total", "{outcome=\"won\"}"), 1.0);
    let asked = "{operation=\"claim\",outcome=\"answered\"}";
    assert_eq!(counted(&at_b, "nonce_store_seconds_count", asked), 1.0);
    for metrics in [&at_a, &at_b] {
        assert_eq!(sum(metrics, "rustls_migration_arrivals_total"), 1.0);
        assert_eq!(
            sum(metrics, "rustls_migration_connections_closed_total"),
            1.0
        );
        assert_eq!(counted(metrics, "connections", ""), 0.0);
        assert_eq!(counted(metrics, "handshakes_in_progress", ""), 0.0);
    }
}

#[tokio::test]
async fn who_has_no_token_gets_the_metrics_and_nothing_else() {
    let place = Place::with_file(1);
    let mut node = place.node("127.0.0.2", &OPERATOR).await;
    let operator = node.operator().await;
    assert_eq!(
        get(operator, "/metrics").await.unwrap().0,
        "HTTP/1.0 200 OK"
    );
    for path in ["/", "/page", "/0123456789abcdef0123456789abcdef/", "//"] {
        let (status, body) = get(operator, path).await.unwrap();
        assert_eq!((&*status, &*body), ("HTTP/1.0 404 Not Found", ""), "{path}");
    }
}

#[tokio::test]
async fn others_than_this_machine_reach_an_operators_address_only_when_somebody_says_so() {
    let place = Place::with_file(1);
    let (root, state) = (place.path("root"), place.path("state"));
    let arguments = ["--listen", "127.0.0.2:0", "--operator", "0.0.0.0:0"];
    let mut node = demo_server(arguments);
    node.arg("--root").arg(&root).arg("--state-dir").arg(&state);
    let output = node.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--operator-anywhere"), "{said}");
    let anywhere = ["--operator", "0.0.0.0:0", "--operator-anywhere"];
    let mut node = place.node("127.0.0.2", &anywhere).await;
    let port = node.operator().await.port();
    let metrics = scrape(([127, 0, 0, 1], port).into()).await.unwrap();
    assert!(metrics.contains("rustls_migration_seals_left"), "{metrics}");
}
