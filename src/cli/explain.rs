//! `support-access explain`

use clap::Args;

use super::{
    check::{CALL, QuestionArgs},
    client::Client,
    failure::Failure,
    output::Report,
};
use crate::api::proto::v1;

/// Say why a check is answered as it is: the troubleshooting checklist, and every grant that was considered.
///
/// Exits with 0 whatever the answer is.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    question: QuestionArgs,
}

pub(crate) async fn run(client: &Client, args: &ExplainArgs) -> Result<Report, Failure> {
    let message = v1::ExplainAccessRequest {
        check: Some(args.question.to_check()),
        consistency_token: args.question.token.clone(),
    };
    let send = async |request| client.checks().explain_access(request).await;
    client.report(&client.call(&CALL, message, send).await?)
}
