//! Check nodes, and how far a change has reached them.

use super::{Answer, Cell, Look, Tone, about, details, enforcement, short, table, v1};

impl Answer for v1::WaitEnforcedResponse {
    const NAME: &'static str = "WaitEnforcedResponse";

    fn for_people(&self, look: Look) -> String {
        details(look, &[enforcement(self.enforcement.as_ref())])
    }
}

impl Answer for v1::ListCheckNodesResponse {
    const NAME: &'static str = "ListCheckNodesResponse";

    fn for_people(&self, look: Look) -> String {
        let header =
            ["NODE", "KIND", "VERSION", "REVISION", "LAG", "LEASE AGE", "UPSTREAM", "SILENT FOR"];
        let row = |node| row(node, self.max_staleness.as_ref());
        let rows = self.check_nodes.iter().map(row).collect();
        let (head, lease) = (self.head_revision, about(self.max_staleness.as_ref()));
        table(look, &header, rows)
            + &format!(
                "\nThe log ends at revision {head}. A node whose lease is {lease} old denies every check.\n"
            )
    }
}

fn row(node: &v1::CheckNode, max_staleness: Option<&prost_types::Duration>) -> Vec<Cell> {
    let order = |it: &prost_types::Duration| (it.seconds, it.nanos);
    let lease_age = node.lease_age.as_ref();
    let is_proven = lease_age.map(order) < max_staleness.map(order) && lease_age.is_some();
    let age = lease_age.map_or_else(|| "none".to_owned(), |age| about(Some(age)));
    vec![
        Cell::new(&node.node_id),
        Cell::new(short(node.kind().as_str_name(), "NODE_KIND_")),
        Cell::new(&node.version),
        Cell::new(node.revision.to_string()),
        Cell::new(node.lag.to_string()).toned((node.lag > 0).then_some(Tone::Notice)),
        Cell::new(age).toned((!is_proven).then_some(Tone::Bad)),
        Cell::new(&node.upstream_node_id),
        Cell::new(about(node.silent_for.as_ref())),
    ]
}

#[cfg(test)]
mod tests {
    use prost_types::Duration;

    use super::*;

    #[test]
    fn check_nodes_are_a_table() {
        let millis = |millis: i32| Duration { seconds: 0, nanos: millis * 1_000_000 };
        let replica = v1::CheckNode {
            node_id: "n1".into(),
            kind: v1::NodeKind::Replica.into(),
            version: "0.2.0".into(),
            revision: 9,
            lease_age: Some(millis(120)),
            silent_for: Some(Duration::default()),
            ..v1::CheckNode::default()
        };
        let sidecar = |node_id: &str, lease_age| v1::CheckNode {
            node_id: node_id.into(),
            kind: v1::NodeKind::Sidecar.into(),
            version: "0.1.0".into(),
            upstream_node_id: "n1".into(),
            revision: 7,
            lag: 2,
            lease_age,
            silent_for: Some(Duration { seconds: 61, nanos: 500_000_000 }),
        };
        let late = Duration { seconds: 2, nanos: 300_000_000 };
        let check_nodes = vec![replica, sidecar("n2", Some(late)), sidecar("n3", None)];
        let max_staleness = Some(Duration { seconds: 2, nanos: 0 });
        let answer = v1::ListCheckNodesResponse { check_nodes, head_revision: 9, max_staleness };
        let expected = "\
NODE  KIND     VERSION  REVISION  LAG  LEASE AGE  UPSTREAM  SILENT FOR
n1    REPLICA  0.2.0    9         0    120ms      -         0us
n2    SIDECAR  0.1.0    7         2    2.3s       n1        1m 1s
n3    SIDECAR  0.1.0    7         2    none       n1        1m 1s

The log ends at revision 9. A node whose lease is 2s old denies every check.
";
        assert_eq!(answer.for_people(Look::default()), expected);
        let coloured = answer.for_people(Look { terminal: false, colours: true });
        assert_eq!(coloured.matches("\u{1b}[38;5;1m").count(), 2, "without a lease: {coloured:?}");
    }
}
