//! The histories of the fake server, with valid hash chains.

use support_access::{
    api::proto::v1,
    domain::{
        LogName, TenantId,
        chain::{ChainHead, Checkpoint, Content, Link},
        time::from_micros,
    },
};
use tonic::Status;
use uuid::Uuid;

/// The sequence of the checkpoint of every history.
pub const HISTORY: usize = 2_500;

/// The records of this many events, and a checkpoint.
fn history(tenant_id: &str, events: usize) -> (Vec<String>, String) {
    let log = LogName(Uuid::nil());
    let time = from_micros(1_800_000_000_000_000).unwrap();
    let mut link = Link::START;
    let mut records = Vec::new();
    for revision in 1..=i64::try_from(events).unwrap() {
        let (actor, body) = ("admin", "{}");
        let content =
            Content { tenant_id, time, actor, via: None, actor_asserted: false, reason: "", body };
        let next = content.link(log, link).unwrap();
        records.push(content.record(log, revision, link.hash, next).unwrap().line);
        link = next;
    }
    let tenant_id = TenantId::new(tenant_id).ok();
    let head = ChainHead { log, link };
    (records, Checkpoint::new(tenant_id.as_ref(), head, time, None).unwrap().line())
}

/// Exports more events than the checkpoint covers, because a history grows.
pub(super) fn export(
    message: &v1::ExportHistoryRequest,
) -> Vec<Result<v1::ExportHistoryResponse, Status>> {
    let tenant = message.tenant_id();
    let (records, _) = history(tenant, if tenant == "lost" { 0 } else { HISTORY + 500 });
    let from = usize::try_from(message.after_sequence).unwrap();
    let pages = records[from..].chunks(1_000);
    pages.map(|records| Ok(v1::ExportHistoryResponse { records: records.to_vec() })).collect()
}

pub(super) fn checkpoint(tenant_id: &str) -> String {
    match tenant_id {
        "corrupt" => "{}".to_owned(),
        "other" => history("acme", HISTORY).1,
        tenant_id => history(tenant_id, HISTORY).1,
    }
}
