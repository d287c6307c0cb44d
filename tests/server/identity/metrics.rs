//! The metrics of a replica and of a sidecar, held against `docs/metrics.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
};

use support_access::server::Running;

use super::{NODE, World, bearing, sidecars::sidecar};
use crate::harness::{a_check, a_grant, access, eventually, get, with_timeout};

/// Where they are written down for people.
const DOCUMENT: &str = "docs/metrics.md";

/// What is told of one metric.
#[derive(Debug, Default, PartialEq)]
struct Told {
    kind: String,
    unit: String,
    help: String,
    labels: BTreeSet<String>,
}

/// All metrics of a process, by the names that Prometheus knows them by.
async fn told(running: &Running) -> BTreeMap<String, Told> {
    let text = get(running.http, "/metrics").await.2;
    let mut all: Vec<(String, Told)> = Vec::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        if let ["#", "HELP", name, help] = words[..] {
            let told = Told { help: help.into(), ..Told::default() };
            all.push((name.into(), told));
            continue;
        }
        let (_, told) = all.last_mut().expect("HELP comes first");
        match words[..] {
            ["#", "TYPE", _, kind] => kind.clone_into(&mut told.kind),
            ["#", "UNIT", _, unit] => unit.clone_into(&mut told.unit),
            _ => {
                let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
                let labels = labels.map_or("", |(labels, _)| labels).split(',');
                let names = labels.filter_map(|label| Some(label.split_once('=')?.0));
                told.labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
            }
        }
    }
    let as_known = |(name, told): (String, Told)| match told.kind.as_str() {
        "counter" => (format!("{name}_total"), told),
        "info" => (format!("{name}_info"), told),
        _ => (name, told),
    };
    all.into_iter().map(as_known).collect()
}

#[tokio::test]
async fn every_metric_is_in_the_document() {
    let world = World::new().await;
    let token = world.issuer.token("alice@acme.example", "access-admin", &["acme"]);
    world.admin(None).await.grant_access(bearing(a_grant(), &token)).await.unwrap();
    let sidecar = sidecar(&world, Some(NODE), None).await;
    let mut checks = access(&sidecar.running).await;
    with_timeout(checks.check_access(a_check())).await.unwrap();
    // It is there once the history was verified.
    eventually(async || told(&world.running).await.contains_key("support_access_history_breaks"))
        .await;
    let of_replica = told(&world.running).await;
    let of_sidecar = told(&sidecar.running).await;
    let mut table =
        String::from("| Metric | Type | Unit | Labels | Of | Meaning |\n|---|---|---|---|---|---|");
    for (name, Told { kind, unit, help, labels }) in &of_replica {
        let of = match of_sidecar.get(name) {
            Some(same) => {
                assert_eq!((&same.kind, &same.unit, &same.help), (kind, unit, help), "{name}");
                "all"
            }
            None => "replicas",
        };
        assert!(unit.is_empty() || name.contains(unit.as_str()), "{name} is in {unit}");
        let unit = if unit.is_empty() { "1" } else { unit };
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        write!(table, "\n| `{name}` | {kind} | {unit} | {labels} | {of} | {help} |").unwrap();
    }
    for name in of_sidecar.keys() {
        assert!(of_replica.contains_key(name), "{name} is of sidecars only: say so in the table");
    }
    let path = format!("{}/{DOCUMENT}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap();
    let begin = text.find("| Metric |").unwrap();
    let end = text[begin..].find("\n\n").map_or(text.len(), |length| begin + length);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{}{table}{}", &text[..begin], &text[end..])).unwrap();
    } else {
        assert_eq!(&text[begin..end], table, "{DOCUMENT} does not say what the code does");
    }
}
