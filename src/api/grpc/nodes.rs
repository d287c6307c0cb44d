//! `CheckNodes`: the check nodes, for operators.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use crate::{
    api::{
        grpc::{
            call::admit,
            convert::{ProtoEnum, timestamps::duration},
            status::replica_required,
        },
        proto::v1::{self as pb, check_nodes_server::CheckNodes},
    },
    domain::{NodeInfo, Revision},
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
        Ok(Response::new(pb::ListCheckNodesResponse {
            check_nodes: nodes.into_iter().map(|info| message(info, head)).collect(),
            head_revision: head,
            max_staleness: Some(duration(max_staleness)),
        }))
    }
}

fn message(info: NodeInfo, head: Revision) -> pb::CheckNode {
    let NodeInfo { node_id, kind, version, upstream, revision, lease_age, silent_for } = info;
    pb::CheckNode {
        node_id: node_id.to_string(),
        kind: kind.to_proto(),
        version,
        upstream_node_id: upstream.map(|node_id| node_id.to_string()).unwrap_or_default(),
        revision,
        lag: (head - revision).max(0),
        lease_age: lease_age.map(duration),
        silent_for: Some(duration(silent_for)),
    }
}
