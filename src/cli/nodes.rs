//! `support-access nodes`

use clap::Args;

use super::{
    client::{Call, Client},
    failure::Failure,
    output::Report,
};
use crate::api::proto::v1;

const CALL: Call = Call { fields: &[("support-access-actor", "--actor")], repeatable: true };

/// List the check nodes: servers, and the sidecars that they feed. A change is in force once every one has its revision.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {}

pub(crate) async fn run(client: &Client, _: &NodesArgs) -> Result<Report, Failure> {
    let send = async |request| client.nodes().list_check_nodes(request).await;
    client.report(&client.call(&CALL, v1::ListCheckNodesRequest {}, send).await?)
}
