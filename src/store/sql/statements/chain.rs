//! What is asked of the chains, and written to them.

use crate::{
    domain::{
        Revision, TenantId,
        chain::{Link, Sequence},
    },
    store::sql::statements::{Statement, Value, history, limit_value, read::EVENT},
};

/// The oldest events that are in no chain.
pub(in crate::store) fn unlinked(limit: usize) -> Statement {
    let sql = format!(
        "SELECT {EVENT} FROM events AS e \
         WHERE e.revision > (SELECT coalesce(max(revision), 0) FROM chain) ORDER BY e.revision LIMIT $1"
    );
    Statement::new(sql, vec![limit_value(limit)])
}

/// Whether an event is in no chain, and the end of the log.
pub(in crate::store) fn is_behind() -> Statement {
    Statement::plain(
        "SELECT (SELECT coalesce(max(revision), 0) FROM chain) < revision AS is_behind, revision \
         FROM head WHERE id = 1",
    )
}

/// The end of a chain, if it has begun.
pub(in crate::store) fn last(tenant_id: &str) -> Statement {
    let sql =
        "SELECT sequence, hash FROM chain WHERE tenant_id = $1 ORDER BY sequence DESC LIMIT 1";
    Statement::new(sql, vec![tenant_id.into()])
}

/// The name of the log, and the end of a chain, of which all is NULL if it has not begun.
pub(in crate::store) fn head(tenant_id: Option<&TenantId>) -> Statement {
    let sql = "SELECT h.epoch, c.sequence, c.hash FROM head AS h LEFT JOIN chain AS c \
               ON c.tenant_id = $1 AND c.sequence = \
               (SELECT max(sequence) FROM chain WHERE tenant_id = $1) WHERE h.id = 1";
    Statement::new(sql, vec![history(tenant_id).into()])
}

/// Events in their chain, each with the hash before its own: read off one index, the rest found by its key.
pub(in crate::store) fn records(
    tenant_id: Option<&TenantId>,
    sequence: Sequence,
    limit: usize,
) -> Statement {
    let sql = format!(
        "SELECT {EVENT}, h.epoch, c.sequence, c.hash, p.hash AS previous_hash \
         FROM chain AS c CROSS JOIN head AS h CROSS JOIN events AS e \
         LEFT JOIN chain AS p ON p.tenant_id = c.tenant_id AND p.sequence = c.sequence - 1 \
         WHERE c.tenant_id = $1 AND c.sequence > $2 AND h.id = 1 AND e.revision = c.revision \
         ORDER BY c.sequence LIMIT $3"
    );
    Statement::new(sql, vec![history(tenant_id).into(), sequence.into(), limit_value(limit)])
}

/// The first tenant after this one, in the order of the index.
pub(in crate::store) fn tenant_after(tenant_id: &str) -> Statement {
    let sql = "SELECT tenant_id FROM chain WHERE tenant_id > $1 ORDER BY tenant_id LIMIT 1";
    Statement::new(sql, vec![tenant_id.into()])
}

/// Puts events into their chains, in the order of the log.
pub(in crate::store) fn insert(links: &[(Revision, String, Link)]) -> Statement {
    let mut values = Vec::with_capacity(links.len() * 4);
    let mut rows = Vec::with_capacity(links.len());
    for (revision, tenant_id, Link { sequence, hash }) in links {
        let first = values.len() + 1;
        rows.push(format!("(${first}, ${}, ${}, ${})", first + 1, first + 2, first + 3));
        values.push((*revision).into());
        values.push(tenant_id.as_str().into());
        values.push((*sequence).into());
        values.push(Value::Bytes(hash.0.to_vec()));
    }
    let rows = rows.join(", ");
    let sql = format!("INSERT INTO chain (revision, tenant_id, sequence, hash) VALUES {rows}");
    Statement::new(sql, values)
}
