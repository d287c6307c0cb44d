//! `CheckNodes`: the check nodes, for operators.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use crate::{
    api::{
        grpc::{
            call::admit,
            convert::{replication::node_message, timestamps::duration},
            status::replica_required,
        },
        proto::v1::{self as pb, check_nodes_server::CheckNodes},
    },
    domain::NodeInfo,
    service::{Service, nodes::CheckNodeList},
};

/// The service, at a replica or a sidecar.
#[derive(Debug, Clone)]
pub struct Nodes {
    service: Option<Arc<Service>>,
}

impl Nodes {
    /// The service at a replica. Without `service`, at a sidecar, which rejects every call.
    pub fn new(service: Option<Arc<Service>>) -> Self {
        Self { service }
    }
}

#[async_trait]
impl CheckNodes for Nodes {
    async fn list_check_nodes(
        &self,
        request: Request<pb::ListCheckNodesRequest>,
    ) -> Result<Response<pb::ListCheckNodesResponse>, Status> {
        admit(request)?;
        let service = self.service.as_ref().ok_or_else(replica_required)?;
        let CheckNodeList { nodes, head, max_staleness } = service.check_nodes().await?;
        let message = |info: NodeInfo| {
            let lag = (head - info.revision).max(0);
            node_message(info, lag)
        };
        Ok(Response::new(pb::ListCheckNodesResponse {
            check_nodes: nodes.into_iter().map(message).collect(),
            head_revision: head,
            max_staleness: Some(duration(max_staleness)),
        }))
    }
}
