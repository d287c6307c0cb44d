//! The list of check nodes, for operators.

use std::time::Duration;

use crate::{
    domain::{NodeInfo, NodeKind, Revision},
    service::{Service, ServiceError},
    store::Member,
};

/// All known check nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckNodeList {
    /// Replicas first, then sidecars by their upstream. A sidecar that moves to another replica may
    /// appear twice for a short time.
    pub nodes: Vec<NodeInfo>,
    /// The last revision in the log.
    pub head: Revision,
    /// The longest lifetime of a lease.
    pub max_staleness: Duration,
}

impl Service {
    /// Every replica in the membership, and their followers. The followers of this node come from
    /// memory, and the followers of other replicas from the latest reports of these replicas. So a
    /// sidecar can neither invent nor hide a node.
    pub async fn check_nodes(&self) -> Result<CheckNodeList, ServiceError> {
        let members = self.store.membership().members().await?;
        let reports = self.store.membership().read_followers().await?;
        let own = self.own_info();
        let own_id = own.node_id;
        let others = members.members.into_iter().filter(|member| member.node_id != own_id);
        let reports = reports.into_iter().filter(|(node_id, _)| *node_id != own_id);
        let reports = reports.flat_map(|(_, followers)| followers);
        let head = members.head.revision.max(self.node.revision());
        let nodes = std::iter::once(own).chain(others.map(info));
        let mut nodes: Vec<_> = nodes.chain(self.node.followers()).chain(reports).collect();
        nodes.sort_by_key(|info| (info.kind != NodeKind::Replica, info.upstream));
        Ok(CheckNodeList { nodes, head, max_staleness: members.max_staleness })
    }

    fn own_info(&self) -> NodeInfo {
        NodeInfo {
            node_id: self.node.id(),
            kind: self.node.kind(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            upstream: None,
            revision: self.node.ack().revision,
            lease_age: self.node.gauges().lease_age,
            silent_for: Duration::ZERO,
        }
    }
}

/// Another replica, as its row in the membership shows. A heartbeat renews the row and the lease.
fn info(member: Member) -> NodeInfo {
    let Member { node_id, version, heartbeat_seq: _, ack, heartbeat_age } = member;
    NodeInfo {
        node_id,
        kind: NodeKind::Replica,
        version,
        upstream: None,
        revision: ack.revision,
        lease_age: Some(heartbeat_age),
        silent_for: heartbeat_age,
    }
}
