//! The unit for systemd and the pod for Kubernetes in docs/operating.md are what these take, and their node starts, serves, reads its keys
//! again and is drained within the time that it is given.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use migration_tests::Pki;
use migration_tests::place::{Place, SHORT, text};
use migration_tests::program::python;
use migration_tests::programs::{Server, demo_server, report};
use serde_json::Value;

const OPERATING: &str = include_str!("../../docs/operating.md");
const POD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deployment/pod.py");

/// The indented block behind the paragraph that begins with `words`.
fn block(words: &str) -> String {
    let (_, rest) = OPERATING.split_once(words).unwrap();
    let (_, rest) = rest.split_once("\n\n").unwrap();
    let lines = rest
        .lines()
        .map_while(|line| match line.strip_prefix("    ") {
            Some(line) => Some(line),
            None => line.is_empty().then_some(line),
        });
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands behind `name=` in a unit.
fn setting<'a>(unit: &'a str, name: &str) -> &'a str {
    let mut lines = unit.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {unit}"))
}

fn value<'a>(arguments: &'a [String], name: &str) -> &'a str {
    let at = arguments.iter().position(|argument| argument == name);
    &arguments[at.unwrap_or_else(|| panic!("no {name}")) + 1]
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

/// What a machine has that a node is deployed to.
struct Machine(Place);

impl Machine {
    async fn new() -> Self {
        let place = Place::with_file(SHORT);
        let pki = Pki::strict();
        let (certificate, key) = pki.issue_pem("service.example");
        for (name, content) in [
            ("certificate", certificate),
            ("key", key),
            ("ca", pki.ca_pem()),
        ] {
            std::fs::write(place.path(name), content).unwrap();
        }
        let keys = place.path("ticket.keys");
        let generate = ["keys", "generate", "--ticket-keys", text(&keys)];
        let made = demo_server(generate).status().await.unwrap();
        assert!(made.success());
        Self(place)
    }

    /// Runs a node by these arguments as they would be here: from its start to the end of a drain that has nobody to wait for.
    async fn runs(&self, documented: &[String]) {
        // No two clocks are one.
        assert!(number(value(documented, "--clock-skew")) > 0);
        let mut arguments = documented.to_vec();
        let listen = arguments.iter().position(|one| one == "--listen").unwrap();
        arguments.drain(listen..listen + 2);
        for argument in &mut arguments {
            if let Some(here) = self.here(argument) {
                *argument = here;
            }
        }
        let mut node = Server::start("127.0.0.2", &arguments).await;
        node.operator().await;
        let ca = self.0.path("ca");
        let trusting = ["--ca", text(&ca), "--server-name", "service.example"];
        let got = self.0.get(node.address(), &trusting).output().await;
        assert_eq!(report(&got.unwrap())["sha256"], self.0.sha256());
        node.signal("HUP").await;
        node.logged("ticket keys reloaded").await;
        node.signal("TERM").await;
        assert_eq!(node.ended().await, Some(0));
        assert!(
            !self.0.path("state").exists() && !Path::new("demo-state").exists(),
            "the node makes nothing by itself that it was not told of"
        );
    }

    /// What is here in the place of a documented address or file.
    fn here(&self, documented: &str) -> Option<String> {
        let file = |name| text(&self.0.path(name)).to_owned();
        Some(match documented {
            "/srv/files" => file("root"),
            "/etc/node/certificate.pem" | "/run/certificate/tls.crt" => file("certificate"),
            "/etc/node/key.pem" | "/run/certificate/tls.key" => file("key"),
            "/etc/node/ticket.keys" | "/run/keys/ticket.keys" => file("ticket.keys"),
            "file:/var/lib/node/nonces" => format!("file:{}", file("nonces")),
            "127.0.0.1:9100" | "0.0.0.0:9100" => "127.0.0.1:0".to_owned(),
            _ => return None,
        })
    }
}

#[tokio::test]
async fn systemd_takes_the_unit_and_its_node_runs() {
    let unit = block("systemd, with the time to stop");
    let start = setting(&unit.replace("\\\n", " "), "ExecStart").to_owned();
    let (program, arguments) = start.split_once(' ').unwrap();
    let arguments: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
    let stop = number(setting(&unit, "TimeoutStopSec"));
    assert!(number(value(&arguments, "--drain-deadline")) < stop);

    let machine = Machine::new().await;
    let here = demo_server::<&str>([]).as_std().get_program().to_owned();
    let file = machine.0.path("node.service");
    std::fs::write(&file, unit.replace(program, here.to_str().unwrap())).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", text(&file)])
        .output()
        .expect("systemd-analyze runs; apt-get install -y systemd");
    let said = String::from_utf8(verified.stderr).unwrap();
    assert!(
        verified.status.success() && !said.contains("node.service"),
        "{said}"
    );
    machine.runs(&arguments).await;
}

#[tokio::test]
async fn kubernetes_takes_the_pod_and_its_node_runs() {
    let pod = pod(&block("Kubernetes, where"));
    let container = &pod["containers"][0];
    let mut arguments: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
    // Kubernetes puts the environment in.
    for variable in container["env"].as_array().unwrap() {
        let name = format!("$({})", variable["name"].as_str().unwrap());
        let value = variable["value"].as_str().unwrap_or("127.0.0.2");
        for argument in &mut arguments {
            *argument = argument.replace(&name, value);
        }
    }
    assert!(
        arguments.iter().all(|one| !one.contains("$(")),
        "{arguments:?}"
    );
    let before = &container["lifecycle"]["preStop"]["exec"]["command"][1];
    let before = number(before.as_str().unwrap());
    let deadline = number(value(&arguments, "--drain-deadline"));
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(before + deadline < grace);
    for mount in container["volumeMounts"].as_array().unwrap() {
        let path = mount["mountPath"].as_str().unwrap();
        assert!(arguments.iter().any(|one| one.starts_with(path)), "{path}");
    }
    Machine::new().await.runs(&arguments).await;
}

/// The spec of a pod, as Kubernetes' schema has it.
fn pod(yaml: &str) -> Value {
    let mut reading = Command::new(python())
        .arg(POD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the Python environment is there; tools/setup-tests");
    let mut input = reading.stdin.take().unwrap();
    input.write_all(yaml.as_bytes()).unwrap();
    drop(input);
    let output = reading.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}\nif it is missing: tools/setup-tests"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}
