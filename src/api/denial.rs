//! Denials in place of errors, for callers that may allow after an error.

use std::sync::Arc;

use http::Response;
use tonic::Status;

use crate::{
    api::{
        body::CallBody,
        call_id::CALL_ID,
        grpc::{envoy, status_of},
        integrations::answer::Answer,
        observe::{GRPC_STATUS, ObservedBody},
        unary::respond_uncounted,
    },
    service::unsent::Unsent,
};

/// Turns the error of Envoy's call into a denial. Envoy may allow a request after an error, so the
/// refusals of all layers pass here, including the response to a panic.
pub(super) fn deny_refusal(
    response: Response<ObservedBody<CallBody>>,
    unsent: &Arc<Unsent>,
) -> Response<ObservedBody<CallBody>> {
    if !response.headers().contains_key(GRPC_STATUS) {
        return response;
    }
    let status = status_of(response.headers());
    let (mut parts, _) = response.into_parts();
    // This header owns the permit of the call.
    let holder = parts.headers.remove(Status::GRPC_STATUS_DETAILS);
    let message = envoy::response(Answer::refusal(&status));
    let denial = respond_uncounted(&message, holder, unsent);
    let mut denial = denial.map(|body| ObservedBody::unobserved(CallBody::Unary(body)));
    if let Some(id) = parts.headers.remove(CALL_ID) {
        denial.headers_mut().insert(CALL_ID, id);
    }
    denial
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::BodyExt;
    use prost::Message;
    use tonic::Code;

    use super::*;
    use crate::api::proto::envoy::{CheckResponse, check_response::HttpResponse};

    #[test]
    fn an_error_of_every_code_becomes_a_denial() {
        for code in (1..=16).map(Code::from) {
            let mut refusal = Response::new(ObservedBody::unobserved(CallBody::default()));
            Status::new(code, "no").add_header(refusal.headers_mut()).unwrap();
            refusal.headers_mut().insert(CALL_ID, "7".parse().unwrap());
            let denial = deny_refusal(refusal, &Arc::default());
            assert_eq!(denial.headers()[CALL_ID], "7");
            assert!(!denial.headers().contains_key("grpc-status"), "{code:?}");
            let body = denial.into_body().collect().now_or_never().unwrap().unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
            let answer = CheckResponse::decode(&body.to_bytes()[5..]).unwrap();
            assert_ne!(answer.status.unwrap().code, 0);
            let Some(HttpResponse::DeniedResponse(denied)) = answer.http_response else {
                panic!("{code:?} is no denial")
            };
            assert_eq!(denied.status.unwrap().code, 503, "{code:?}");
        }
    }
}
