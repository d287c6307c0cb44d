//! The acceptance of the clock.

use crate::{
    api::{
        grpc::convert::{
            fields::{Fields, Parsed},
            timestamps::signed_duration,
        },
        proto::v1 as pb,
    },
    domain::AcceptClockRequest,
    service::clock::AcceptClockOutcome,
};

pub(in crate::api::grpc) fn accept_clock_request(
    message: pb::AcceptClockRequest,
) -> Parsed<AcceptClockRequest> {
    let pb::AcceptClockRequest { request_id, reason } = message;
    let mut fields = Fields::default();
    let request_id = fields.request_id(&request_id);
    let reason = fields.required_reason(reason);
    fields.finish(Some(AcceptClockRequest { request_id, reason }))
}

pub(in crate::api::grpc) fn accepted(outcome: AcceptClockOutcome) -> pb::AcceptClockResponse {
    let AcceptClockOutcome { step, moved_count, token } = outcome;
    pb::AcceptClockResponse {
        step: Some(signed_duration(step)),
        moved_count: moved_count.try_into().unwrap_or(i32::MAX),
        consistency_token: token.to_string(),
    }
}
