//! The messages of `ServerInfo`.

use crate::{
    api::{
        grpc::convert::{enums::ProtoEnum, timestamps::timestamp},
        proto::v1 as pb,
    },
    domain::{AuthenticationMethod, Caller, NodeKind, Tenants},
};

/// Empty in a debug build.
const COMMIT: &str = env!("SUPPORT_ACCESS_COMMIT");
/// The maximum number of tenants in a response.
const TENANTS_MAX: usize = 100;

pub(in crate::api::grpc) fn server_info(kind: NodeKind) -> pb::GetServerInfoResponse {
    pb::GetServerInfoResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: COMMIT.to_owned(),
        kind: kind.to_proto(),
    }
}

pub(in crate::api::grpc) fn caller(caller: &Caller) -> pb::GetCallerResponse {
    let method = match caller.method {
        AuthenticationMethod::None => pb::AuthenticationMethod::None,
        AuthenticationMethod::Certificate => pb::AuthenticationMethod::Certificate,
        AuthenticationMethod::Token => pb::AuthenticationMethod::Token,
        AuthenticationMethod::UnixUser => pb::AuthenticationMethod::UnixUser,
    };
    let (all_tenants, tenant_ids) = match &caller.tenants {
        Tenants::All => (true, Vec::new()),
        Tenants::These(own) => {
            (false, own.iter().take(TENANTS_MAX).map(ToString::to_string).collect())
        }
    };
    pb::GetCallerResponse {
        name: caller.author.actor.to_string(),
        authentication_method: method.into(),
        roles: caller.roles.iter().map(|role| role.to_proto()).collect(),
        all_tenants,
        tenant_ids,
        via: caller.author.via.as_ref().map(ToString::to_string).unwrap_or_default(),
        expire_time: caller.expire_time.map(timestamp),
    }
}
