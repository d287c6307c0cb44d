//! `support-access node list`.

use clap::{Args, Subcommand};

use super::{
    client::{Call, Client, Remote},
    error::CliError,
    output::Report,
    table::{Cell, Column, Highlight, Layout, table},
    view::{measured, short},
};
use crate::api::proto::v1;

const COLUMNS: [Column; 8] = [
    Column::fixed("NODE", 0),
    Column::fixed("KIND", 1),
    Column::fixed("VERSION", 5),
    Column::fixed("REVISION", 4),
    Column::fixed("LAG", 2),
    Column::fixed("LEASE AGE", 1),
    Column::fixed("SILENT FOR", 3),
    Column::fixed("UPSTREAM", 6),
];

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    List(Remote<ListArgs>),
}

/// List the check nodes: replicas and sidecars
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access node list")]
pub(crate) struct ListArgs {}

impl NodeCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        let Self::List(command) = self;
        command.run().await
    }
}

impl Call for ListArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let send = async |request| client.nodes().list_check_nodes(request).await;
        let response = client.call(v1::ListCheckNodesRequest {}, send).await?;
        client.report(&response, list)
    }
}

fn list(layout: Layout, response: &v1::ListCheckNodesResponse) -> String {
    let row = |node| row(node, response.max_staleness.as_ref());
    let rows: Vec<_> = response.check_nodes.iter().map(row).collect();
    let (head, max_age) = (response.head_revision, measured(response.max_staleness.as_ref()));
    table(layout, &COLUMNS, &rows)
        + &format!(
            "\nThe log ends at revision {head}. A node with a lease older than {max_age} denies \
             every check.\n"
        )
}

fn row(node: &v1::CheckNode, max_staleness: Option<&prost_types::Duration>) -> Vec<Cell> {
    let order = |duration: &prost_types::Duration| (duration.seconds, duration.nanos);
    let lease_age = node.lease_age.as_ref();
    let has_valid_lease = lease_age.is_some() && lease_age.map(order) < max_staleness.map(order);
    let age = lease_age.map_or_else(|| "none".to_owned(), |age| measured(Some(age)));
    vec![
        Cell::new(&node.node_id),
        Cell::new(short(node.kind().as_str_name(), "NODE_KIND_")),
        Cell::new(&node.version),
        Cell::new(node.revision.to_string()),
        Cell::new(node.lag.to_string()).highlighted((node.lag > 0).then_some(Highlight::Warning)),
        Cell::new(age).highlighted((!has_valid_lease).then_some(Highlight::Bad)),
        Cell::new(measured(node.silent_for.as_ref())),
        Cell::new(&node.upstream_node_id),
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
        let response = v1::ListCheckNodesResponse { check_nodes, head_revision: 9, max_staleness };
        let expected = "\
NODE  KIND     VERSION  REVISION  LAG  LEASE AGE  SILENT FOR  UPSTREAM
n1    REPLICA  0.2.0    9         0    120ms      0us         -
n2    SIDECAR  0.1.0    7         2    2.3s       1m 1s       n1
n3    SIDECAR  0.1.0    7         2    none       1m 1s       n1

The log ends at revision 9. A node with a lease older than 2s denies every check.
";
        assert_eq!(list(Layout::default(), &response), expected);
        let colored = list(Layout { width: None, has_colors: true }, &response);
        assert_eq!(
            colored.matches("\u{1b}[1m\u{1b}[31m").count(),
            2,
            "no valid lease: {colored:?}"
        );
    }
}
