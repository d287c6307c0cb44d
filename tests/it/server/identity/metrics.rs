//! The table of `docs/metrics.md`, generated from the metrics of a replica and a sidecar.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
};

use support_access::server::Running;

use super::{NODE, World, bearing, sidecars::sidecar};
use crate::server::harness::{a_check, a_grant, access, eventually, get, with_timeout};

const DOCUMENT: &str = "docs/metrics.md";

/// A metric as exported.
#[derive(Debug, Default, PartialEq)]
struct Metric {
    kind: String,
    unit: String,
    help: String,
    labels: BTreeSet<String>,
}

/// All metrics of a process, by their names in Prometheus.
async fn metrics(running: &Running) -> BTreeMap<String, Metric> {
    let text = get(running.metrics, "/metrics").await.2;
    let mut all: Vec<(String, Metric)> = Vec::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        if let ["#", "HELP", name, help] = words[..] {
            all.push((name.into(), Metric { help: help.into(), ..Metric::default() }));
            continue;
        }
        let (_, metric) = all.last_mut().expect("HELP comes first");
        match words[..] {
            ["#", "TYPE", _, kind] => kind.clone_into(&mut metric.kind),
            ["#", "UNIT", _, unit] => unit.clone_into(&mut metric.unit),
            _ => {
                let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
                let labels = labels.map_or("", |(labels, _)| labels).split(',');
                let names = labels.filter_map(|label| Some(label.split_once('=')?.0));
                metric.labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
            }
        }
    }
    let with_suffix = |(name, metric): (String, Metric)| match metric.kind.as_str() {
        "counter" => (format!("{name}_total"), metric),
        "info" => (format!("{name}_info"), metric),
        _ => (name, metric),
    };
    all.into_iter().map(with_suffix).collect()
}

#[tokio::test]
async fn every_metric_is_documented() {
    let world = World::new().await;
    let token = world.issuer.token("alice@acme.example", "access-admin", &["acme"]);
    world.admin(None).await.grant_access(bearing(a_grant(), &token)).await.unwrap();
    let sidecar = sidecar(&world, Some(NODE), None).await;
    let mut checks = access(&sidecar.running).await;
    with_timeout(checks.check_access(a_check())).await.unwrap();
    // Exported after the first verification of the history.
    let breaks = "support_access_history_breaks";
    eventually(async || metrics(&world.running).await.contains_key(breaks)).await;
    let of_replica = metrics(&world.running).await;
    let of_sidecar = metrics(&sidecar.running).await;
    let head = "| Metric | Type | Unit | Labels | Nodes | Meaning |\n|---|---|---|---|---|---|";
    let mut table = head.to_owned();
    for (name, Metric { kind, unit, help, labels }) in &of_replica {
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
        assert!(
            of_replica.contains_key(name),
            "{name} is only of sidecars, which the table cannot express"
        );
    }
    let path = format!("{}/{DOCUMENT}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap();
    let begin = text.find("| Metric |").unwrap();
    let end = text[begin..].find("\n\n").map_or(text.len(), |length| begin + length);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{}{table}{}", &text[..begin], &text[end..])).unwrap();
    } else {
        assert_eq!(&text[begin..end], table, "run this test with UPDATE_DOCS=1");
    }
}
