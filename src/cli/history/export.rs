//! `support-access history export` and `history checkpoint`.

use clap::Args;

use crate::{
    api::proto::v1,
    cli::{
        args::HistoryArgs,
        client::{Call, Client},
        error::CliError,
        output::{Report, print_part},
    },
    domain::chain::{Checkpoint, verifier::read_checkpoint},
};

/// Export a history as JSON lines that can be verified offline, oldest first
///
/// The last line is a checkpoint, so an export that ends early has none. Store the lines unchanged,
/// because the hashes cover each byte. docs/history.md describes the format.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  support-access history export acme > acme.jsonl
  support-access history export --vendor > vendor.jsonl")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    history: HistoryArgs,
}

/// Print the head of a history's hash chain, signed if the server has a checkpoint key
///
/// Store checkpoints where the operators of the service cannot write. With `history verify
/// --checkpoint`, a stored checkpoint proves that the history before it has not changed.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access history checkpoint acme > acme.checkpoint")]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    history: HistoryArgs,
}

impl Call for ExportArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        // The export ends with this checkpoint. Later events are left for the next export.
        let (line, checkpoint) = get_checkpoint(client, &self.history).await?;
        let end = checkpoint.link.sequence;
        let tenant_id = self.history.tenant_id()?;
        let message = v1::ExportHistoryRequest { tenant_id, after_sequence: 0 };
        let send = async |request| client.admin().export_history(request).await;
        let mut stream = client.call(message, send).await?;
        let mut sequence = 0;
        while sequence < end {
            let page = match stream.message().await {
                Ok(page) => page,
                Err(status) => return Err(client.error(&status).await),
            };
            let Some(page) = page else {
                let problem = format!(
                    "the history ends after event {sequence}, but the server's checkpoint is after \
                     event {end}"
                );
                return Err(CliError::new(problem));
            };
            let mut text = String::new();
            for record in page.records {
                if sequence < end {
                    text.push_str(&record);
                    text.push('\n');
                    sequence += 1;
                }
            }
            if !print_part(&text)? {
                return Ok(Report::default());
            }
        }
        Ok(Report::new(line + "\n"))
    }
}

impl Call for CheckpointArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let (line, _) = get_checkpoint(client, &self.history).await?;
        Ok(Report::new(line + "\n"))
    }
}

async fn get_checkpoint(
    client: &Client,
    history: &HistoryArgs,
) -> Result<(String, Checkpoint), CliError> {
    let tenant_id = history.tenant_id()?;
    let message = v1::GetCheckpointRequest { tenant_id: tenant_id.clone() };
    let send = async |request| client.admin().get_checkpoint(request).await;
    let line = client.call(message, send).await?.checkpoint;
    let checkpoint = read_checkpoint(line.as_bytes()).ok();
    let is_own =
        |checkpoint: &Checkpoint| checkpoint.tenant_id == tenant_id.clone().unwrap_or_default();
    match checkpoint.filter(is_own) {
        Some(checkpoint) => Ok((line, checkpoint)),
        None => Err(CliError::new("the server returned an invalid checkpoint of this history")),
    }
}
