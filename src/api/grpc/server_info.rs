//! `ServerInfo`: the server and the caller, as the server sees them.

use tonic::{Request, Response, Status, async_trait};

use crate::{
    api::{
        grpc::{call::admit, convert::servers},
        proto::v1::{self as pb, server_info_server::ServerInfo},
    },
    domain::NodeKind,
};

/// The service, at a replica or a sidecar.
#[derive(Debug, Clone)]
pub struct Info {
    kind: NodeKind,
}

impl Info {
    /// The service at a node of this kind.
    pub fn new(kind: NodeKind) -> Self {
        Self { kind }
    }
}

#[async_trait]
impl ServerInfo for Info {
    async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        admit(request)?;
        Ok(Response::new(servers::server_info(self.kind)))
    }

    async fn get_caller(
        &self,
        request: Request<pb::GetCallerRequest>,
    ) -> Result<Response<pb::GetCallerResponse>, Status> {
        let call = admit(request)?;
        Ok(Response::new(servers::caller(&call.caller)))
    }
}
