//! What was counted, for people. docs/sizing.md has it word for word.

use std::time::Duration;

use crate::simulation::scale::{
    meter::{Figures, Kind, percentile},
    plan::{Plan, REGIONS},
};

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

/// The value in the middle, the one that 99 % are not above, and the greatest.
fn spans(mut spans: Vec<Duration>) -> String {
    spans.sort_unstable();
    let at = |percent: usize| spans.get((spans.len() * percent).div_ceil(100).saturating_sub(1));
    match (at(50), at(99), spans.last()) {
        (Some(p50), Some(p99), Some(most)) => {
            format!("{:.0} / {:.0} / {:.0}", millis(*p50), millis(*p99), millis(*most))
        }
        _ => "-".into(),
    }
}

/// A table of what plans have cost, a column for each.
pub(super) fn print(all: &[(Plan, Figures)]) {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for (plan, figures) in all {
        for (number, (name, value)) in lines(plan, figures).into_iter().enumerate() {
            if rows.len() == number {
                rows.push((name, Vec::new()));
            }
            rows[number].1.push(value);
        }
    }
    rows.retain(|(_, values)| values.iter().any(|value| value != "-"));
    for (number, (name, values)) in rows.iter().enumerate() {
        println!("| {name} | {} |", values.join(" | "));
        if number == 0 {
            println!("|---|{}", "--:|".repeat(values.len()));
        }
    }
}

fn lines(plan: &Plan, figures: &Figures) -> Vec<(String, String)> {
    let seconds = f64::from(plan.seconds);
    let rate = |count: u64| format!("{:.0}", count as f64 / seconds);
    let each = |count: u64| format!("{:.1}", count as f64 / figures.commits.max(1) as f64);
    let sum = |kind: Kind| figures.sum(kind);
    let cores = |busy: Duration| format!("{:.2}", busy.as_secs_f64() / seconds);
    let mut lines = vec![
        (String::new(), plan.name()),
        ("check nodes".into(), plan.nodes().to_string()),
        ("changes a second".into(), format!("{:.1}", figures.commits as f64 / seconds)),
        ("renewals a second".into(), rate(sum(Kind::Renewal).count)),
        ("reads of the roll a second".into(), rate(sum(Kind::RollRead).count)),
        ("rows in these, a second".into(), rate(sum(Kind::RollRead).amount)),
        ("acknowledgements, a change".into(), each(sum(Kind::Acknowledgement).count)),
        ("reads of the log, a change".into(), each(sum(Kind::LogRead).count)),
        ("hints to listeners, a change".into(), each(sum(Kind::Hint).count)),
        ("strikes".into(), sum(Kind::Strike).count.to_string()),
        ("other statements a second".into(), {
            let kinds = [Kind::Change, Kind::Report, Kind::Other];
            rate(kinds.iter().map(|kind| sum(*kind).count).sum())
        }),
        ("processors of the database: renewals".into(), cores(sum(Kind::Renewal).busy)),
        ("processors of the database: reads of the roll".into(), cores(sum(Kind::RollRead).busy)),
        ("processors of the database: hints".into(), cores(sum(Kind::Hint).busy)),
        ("processors of the database: all".into(), cores(figures.busy())),
        ("longest wait in the database, ms".into(), format!("{:.0}", millis(figures.queue_max))),
    ];
    lines.extend(streams(plan, figures));
    for (number, region) in REGIONS.iter().enumerate() {
        let here = || figures.enforced.iter().filter(|enforced| enforced.region == number);
        let name = format!("commit to COMPLETE, revoked {}, ms", place(region.name));
        lines.push((name, spans(here().map(|it| it.since_commit).collect())));
        let name = format!("request to answer, revoked {}, ms", place(region.name));
        lines.push((name, spans(here().map(|it| it.took).collect())));
    }
    for (kind, name) in ["replicas", "sidecars"].iter().enumerate() {
        let at = |percent| percentile(&figures.ages[kind], percent);
        let told = match (at(50), at(99), at(100)) {
            (Some(p50), Some(p99), Some(most)) => format!("{p50} / {p99} / {most}"),
            _ => "-".into(),
        };
        lines.push((format!("age of proofs at {name}, ms"), told));
    }
    let least = figures.enforced.iter().map(|it| it.acknowledged).min().unwrap_or(0);
    let lapsed: u32 = figures.enforced.iter().map(|it| it.lapsed).sum();
    let complete = figures.enforced.len();
    lines.push(("revocations COMPLETE, and not".into(), format!("{complete}, {}", figures.failed)));
    lines.push((
        "nodes that acknowledged each, and lapsed in all".into(),
        format!("{least}, {lapsed}"),
    ));
    lines.push(("looks that found a node STALE".into(), figures.stale.to_string()));
    lines
}

fn streams(plan: &Plan, figures: &Figures) -> Vec<(String, String)> {
    let seconds = f64::from(plan.seconds);
    let rate = |name: &str| {
        let sum = figures.messages.get(name).copied().unwrap_or_default();
        let bytes = sum.amount as f64 / sum.count.max(1) as f64;
        format!("{:.0} of {bytes:.0}", sum.count as f64 / seconds)
    };
    let mut lines: Vec<_> = ["ping", "pong", "changes", "ack", "report", "row of a report"]
        .iter()
        .map(|name| (format!("{name}: a second, of bytes"), rate(name)))
        .collect();
    let bytes: u64 = figures.messages.values().map(|sum| sum.amount).sum();
    let each = bytes as f64 / seconds / plan.nodes() as f64;
    lines.push(("bytes of messages a second and node".into(), format!("{each:.0}")));
    lines
}

fn place(region: &str) -> String {
    if region == "home" { "at home".into() } else { format!("{region} away") }
}
