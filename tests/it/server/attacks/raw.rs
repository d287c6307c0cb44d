//! Calls with arbitrary bytes as the message.

use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use support_access::domain::Action;
use tokio_util::bytes::Bytes;
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{HeaderMap, Request, Response},
    transport::Channel,
};
use tower::{Service, ServiceExt};

/// `message` with the prefix of gRPC.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    super::frames::message(message.len(), message)
}

/// The path of every RPC.
pub(super) fn paths() -> Vec<String> {
    let path = |action: &Action| {
        let service = match action {
            Action::CheckAccess | Action::BatchCheckAccess | Action::ExplainAccess => {
                "SupportAccess"
            }
            Action::Follow | Action::ListCheckNodes => "CheckNodes",
            _ => "SupportAccessAdmin",
        };
        format!("/supportaccess.v1.{service}/{}", action.name())
    };
    Action::ALL.iter().map(path).collect()
}

pub(super) fn request(path: &str, actor: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method("POST")
        .uri(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("support-access-actor", actor)
        .body(body)
        .unwrap()
}

pub(super) fn whole(bytes: Vec<u8>) -> Body {
    Body::new(Full::new(Bytes::from(bytes)).map_err(|never| match never {}))
}

/// A body that starts with `bytes` and never ends.
pub(super) fn unfinished(bytes: Bytes) -> Body {
    let first = stream::once(async { Ok::<_, Status>(Frame::data(bytes)) });
    Body::new(StreamBody::new(futures::StreamExt::chain(first, stream::pending())))
}

/// The status of a call. `None` if the connection or the stream ended without one.
pub(super) async fn outcome(channel: &Channel, request: Request<Body>) -> Option<Status> {
    let mut channel = channel.clone();
    let response: Response<Body> = channel.ready().await.ok()?.call(request).await.ok()?;
    status(response).await
}

async fn status(response: Response<Body>) -> Option<Status> {
    let (head, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return Some(status);
    }
    let body = body.collect().await.ok()?;
    let none = HeaderMap::new();
    Status::from_header_map(body.trailers().unwrap_or(&none))
}

/// Whether the server, not the caller, is at fault.
pub(super) fn is_server_fault(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss)
}
