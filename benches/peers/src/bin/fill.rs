//! Fills an empty database.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a benchmark fails by panicking, and prints what it finds"
)]

use std::{path::PathBuf, sync::Arc};

use clap::Parser;
use support_access::{
    domain::{
        Attribution, EventKind, FreeText, Lock, LockId, LockTarget, LockTerms, Party, Revocation,
        Time,
        ids::{Actor, AgentId},
    },
    server::SystemClock,
    store::{self, NewEvent},
};
use support_access_bench::data::Data;
use uuid::Uuid;

#[path = "../../../../tests/common/grants.rs"]
mod grants;

/// Fills an empty database.
#[derive(Debug, Parser)]
struct Args {
    /// The URL of the database.
    #[arg(long)]
    database_url: String,
    /// The event key. SQLite creates one beside the database.
    #[arg(long)]
    event_key_file: Option<PathBuf>,
    #[command(flatten)]
    data: Data,
    /// The number of grants that are granted and revoked first.
    #[arg(long, default_value_t = 0)]
    ended: usize,
    /// The number of locks on agents that no check names.
    #[arg(long, default_value_t = 0)]
    locks: usize,
}

/// The number of events of a transaction.
const CHUNK: usize = 100_000;

/// A lock of the vendor in all tenants.
fn lock(number: usize, now: Time) -> NewEvent {
    let actor = Actor::new("operator").unwrap();
    let terms = LockTerms {
        lock_id: LockId(Uuid::now_v7()),
        tenant_id: None,
        target: LockTarget::Agent(AgentId::new(&format!("locked-{number}")).unwrap()),
        party: Party::Vendor,
        expire_time: None,
    };
    let reason = FreeText::new("A lost laptop").unwrap();
    let lock = Lock {
        terms,
        reason: reason.clone(),
        create_time: now,
        creator: actor.clone(),
        lifting: None,
        is_expired: false,
        create_sequence: 0,
        sequence: 0,
    };
    let author = Attribution::direct(actor);
    NewEvent { tenant_id: None, author, reason, kind: EventKind::Locked { lock } }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    let key = args.event_key_file.as_deref();
    let store = store::open(&args.database_url, Arc::new(SystemClock), key).await.unwrap();
    let total = args.ended + args.data.grants + args.locks;
    for first in (0..total).step_by(CHUNK) {
        let mut change = store.begin().await.unwrap();
        let now = change.now();
        for number in first..total.min(first + CHUNK) {
            if let Some(number) = number.checked_sub(args.ended + args.data.grants) {
                change.append(lock(number, now)).await.unwrap();
                continue;
            }
            let is_ended = number < args.ended;
            let (tenant, group) = args.data.grant(number.checked_sub(args.ended).unwrap_or(number));
            let granted =
                change.append(grants::new_grant(&tenant, &group, now, None)).await.unwrap();
            if is_ended {
                let EventKind::Granted { mut grant } = granted.kind else { unreachable!() };
                grant.terms.revoke_time = Some(now);
                let revoker = grant.creator.clone();
                let author = Attribution::direct(revoker.clone());
                let tenant_id = Some(grant.tenant_id.clone());
                grant.revocation = Some(Revocation { revoker, reason: FreeText::default() });
                let kind = EventKind::Revoked { grant };
                let end = NewEvent { tenant_id, author, reason: FreeText::default(), kind };
                change.append(end).await.unwrap();
            }
        }
        change.commit().await.unwrap();
    }
    store.close().await;
    println!("{total} grants and locks");
}
