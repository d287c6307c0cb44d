//! `support-access history export` and `checkpoint`

use clap::Args;

use crate::{
    api::proto::v1,
    cli::{
        client::{Call, Client},
        failure::Failure,
        output::{self, Report},
    },
    domain::chain::{Checkpoint, verifier::read_checkpoint},
};

const CALL: Call = Call {
    fields: &[("tenant_id", "TENANT"), ("support-access-actor", "--actor")],
    repeatable: true,
};

/// Write a whole history as lines of JSON that can be verified, oldest first, and a checkpoint as the last line.
///
/// An export that was broken off has no checkpoint at its end. What happens while it is made is left for the next.
/// The lines must be kept as they are, byte for byte; docs/history.md says what is in them.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    whose: Scope,
}

/// Print how far a history goes: the last event, its hash and the time, signed if the server has a key for that.
///
/// Keep it where whoever could change the history cannot: `history verify --checkpoint` proves with it later that nothing up to
/// there was changed or cut off.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    whose: Scope,
}

// No doc comment, since it would take the place of the command's.
#[derive(Debug, Args)]
#[group(id = "whose", required = true, multiple = false)]
struct Scope {
    /// The tenant.
    tenant: Option<String>,
    /// Not of a tenant: the vendor's own history, of what is no tenant's.
    #[arg(long)]
    vendor: bool,
}

pub(crate) async fn run(client: &Client, args: &ExportArgs) -> Result<Report, Failure> {
    // First: what happens from now on is not in this export.
    let (line, checkpoint) = ask(client, &args.whose).await?;
    let mut after_sequence = 0;
    let tenant_id = Some(checkpoint.tenant_id.clone()).filter(|tenant_id| !tenant_id.is_empty());
    let message = v1::ExportHistoryRequest { tenant_id, after_sequence };
    let send = async |request| client.admin().export_history(request).await;
    let mut stream = client.call(&CALL, message, send).await?;
    while after_sequence < checkpoint.link.sequence {
        let page = stream.message().await;
        let page = page.map_err(|status| Failure::of_status(&status, CALL.fields))?;
        let Some(page) = page else {
            let end = checkpoint.link.sequence;
            return Err(Failure::new(format!(
                "the history ends after event {after_sequence}, although the server's checkpoint has {end}"
            )));
        };
        let mut text = String::new();
        for record in page.records {
            if after_sequence < checkpoint.link.sequence {
                text.push_str(&record);
                text.push('\n');
                after_sequence += 1;
            }
        }
        if !output::part(&text)? {
            return Ok(Report::default());
        }
    }
    Ok(Report { text: line + "\n", ..Report::default() })
}

pub(crate) async fn checkpoint(client: &Client, args: &CheckpointArgs) -> Result<Report, Failure> {
    let (line, _) = ask(client, &args.whose).await?;
    Ok(Report { text: line + "\n", ..Report::default() })
}

async fn ask(client: &Client, whose: &Scope) -> Result<(String, Checkpoint), Failure> {
    // Without a tenant, there is --vendor.
    let tenant_id = whose.tenant.clone().unwrap_or_default();
    if tenant_id.is_empty() && !whose.vendor {
        return Err(Failure::usage(
            "TENANT: must not be empty; --vendor is for the vendor's own history",
        ));
    }
    let message = v1::GetCheckpointRequest { tenant_id: whose.tenant.clone() };
    let send = async |request| client.admin().get_checkpoint(request).await;
    let line = client.call(&CALL, message, send).await?.checkpoint;
    let checkpoint = read_checkpoint(line.as_bytes()).ok();
    let checkpoint = checkpoint.filter(|checkpoint| checkpoint.tenant_id == tenant_id);
    let checkpoint = checkpoint.ok_or_else(|| {
        Failure::new("the server answered with something that is no checkpoint of this history")
    })?;
    Ok((line, checkpoint))
}
