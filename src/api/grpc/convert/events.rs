//! Events of a history.

use chrono::TimeDelta;

use crate::{
    api::{
        grpc::convert::{
            grants, locks, policies,
            timestamps::{signed_duration, timestamp},
        },
        proto::v1::{self as pb, event::Payload},
    },
    domain::{Event, EventKind, Grant, Lock, TenantId, Time},
    service::{EventView, GrantView, locks::LockView},
    store::HistoryEvent,
};

pub(in crate::api::grpc) fn event(view: EventView) -> pb::Event {
    let EventView { listed, enforcement } = view;
    let HistoryEvent { event, hash, enforced: _ } = listed;
    let Event { revision: _, tenant_id, sequence, time, author, reason, kind } = event;
    pb::Event {
        sequence,
        create_time: Some(timestamp(time)),
        actor: author.actor.into(),
        via: author.via.map(String::from).unwrap_or_default(),
        actor_asserted: author.is_asserted,
        reason: reason.as_str().to_owned(),
        hash: hash.0.into(),
        enforcement: enforcement.map(grants::enforcement),
        payload: payload(tenant_id.as_ref(), kind, time),
        tenant_id: tenant_id.map(String::from),
    }
}

/// `None`: no replica wrote the event.
fn payload(tenant_id: Option<&TenantId>, kind: EventKind, time: Time) -> Option<Payload> {
    let grant = |grant: Grant| Some(grants::grant(GrantView::at(grant, time)));
    let lock = |lock: Lock| Some(locks::lock(LockView::at(lock, time)));
    Some(match kind {
        EventKind::Granted { grant: new } => Payload::Granted(pb::Granted { grant: grant(new) }),
        EventKind::Extended { grant: extended, previous_expire_time, clock_step_ms } => {
            Payload::Extended(pb::Extended {
                grant: grant(extended),
                previous_expire_time: previous_expire_time.map(timestamp),
                clock_step: clock_step_ms.map(TimeDelta::milliseconds).map(signed_duration),
            })
        }
        EventKind::Revoked { grant: ended } => {
            Payload::Revoked(pb::Revoked { grant: grant(ended) })
        }
        EventKind::Expired { grant: ended } => {
            Payload::Expired(pb::Expired { grant: grant(ended) })
        }
        EventKind::PolicyUpdated { policy_overrides, support_policy } => {
            let policy_overrides = Some(policies::policy_overrides(&policy_overrides));
            let support_policy =
                tenant_id.map(|tenant_id| policies::support_policy(tenant_id, &support_policy));
            Payload::PolicyUpdated(pb::PolicyUpdated { policy_overrides, support_policy })
        }
        EventKind::Locked { lock: new } => Payload::Locked(pb::Locked { lock: lock(new) }),
        EventKind::Unlocked { lock: ended } => {
            Payload::Unlocked(pb::Unlocked { lock: lock(ended) })
        }
        EventKind::LockExpired { lock: ended } => {
            Payload::LockExpired(pb::LockExpired { lock: lock(ended) })
        }
        EventKind::ClockAccepted { step_ms, moved_count } => {
            Payload::ClockAccepted(pb::ClockAccepted {
                step: Some(signed_duration(TimeDelta::milliseconds(step_ms))),
                moved_count: moved_count.try_into().unwrap_or(i32::MAX),
            })
        }
        EventKind::Forged => return None,
    })
}
