//! `support-access history verify`.

use std::{
    fmt::Write,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use tokio_rustls::rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

use crate::{
    cli::{error::CliError, exit::Exit, output::Report, table::clean},
    domain::chain::{
        Checkpoint, KeyError, PublicKey, Verifier, VerifyError, VerifyReport,
        verifier::{LINE_LENGTH_MAX, read_checkpoint},
    },
};

/// Verify exported histories offline: no line was changed, removed, inserted or moved
///
/// Only a checkpoint can prove that the end of a history is complete and not rewritten. Use a
/// checkpoint that you have stored (--checkpoint), or that the service has signed (--public-key).
/// The exit code is 2 if a history is not valid, and 64 if a file cannot be read.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  support-access history verify acme.jsonl --checkpoint acme.checkpoint
  support-access history verify acme.jsonl vendor.jsonl --public-key checkpoint.pub
  support-access history export acme | support-access history verify -")]
pub(crate) struct VerifyArgs {
    /// Outputs of `history export`; - is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The public key that has signed the checkpoint: a PEM file
    ///
    /// `openssl pkey -in checkpoint.key -pubout` writes the public key of a checkpoint key. An
    /// unsigned checkpoint is then not valid.
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// A stored output of `history checkpoint`
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// The tenant whose history the files must contain
    #[arg(long, value_name = "ID")]
    expect_tenant: Option<String>,
}

pub(crate) fn run(args: &VerifyArgs) -> Result<Report, CliError> {
    let mut whole = Report::default();
    for file in &args.files {
        let name = clean(&file.display().to_string());
        let report = verify_file(args, file).map_err(|error| match args.files.len() {
            1 => error,
            _ => CliError { message: format!("{name}: {}", error.message), ..error },
        })?;
        if args.files.len() > 1 {
            let _ = writeln!(whole.text, "{name}:"); // a write to a String cannot fail
        }
        whole.text += &report.text;
        whole.warnings.extend(report.warnings);
    }
    Ok(whole)
}

fn verify_file(args: &VerifyArgs, file: &Path) -> Result<Report, CliError> {
    let key = args.public_key.as_deref().map(read_key).transpose()?;
    let stored = args.checkpoint.as_deref().map(read_stored).transpose()?;
    let verifier = Verifier::new(key, stored);
    let verifier = verifier.map_err(|error| not_valid(&format!("--checkpoint: {error}")))?;
    let input: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(|error| unreadable("FILE", file, &error))?)
    };
    let result = verify(verifier, input).map_err(|error| unreadable("FILE", file, &error))?;
    let found = result.map_err(|error| not_valid(&error.to_string()))?;
    if args.expect_tenant.as_ref().is_some_and(|tenant| *tenant != found.tenant_id) {
        return Err(not_valid(&format!("the history belongs to {}", owner(&found))));
    }
    Ok(report(&found))
}

fn verify(
    mut verifier: Verifier,
    input: impl Read,
) -> io::Result<Result<VerifyReport, VerifyError>> {
    let mut input = BufReader::new(input);
    // The longest line, a line break, and one more byte by which a longer line is recognized.
    let limit = LINE_LENGTH_MAX as u64 + 2;
    let mut line = Vec::new();
    while input.by_ref().take(limit).read_until(b'\n', &mut line)? > 0 {
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if let Err(error) = verifier.line(&line) {
            return Ok(Err(error));
        }
        line.clear();
    }
    Ok(verifier.finish())
}

fn not_valid(problem: &str) -> CliError {
    CliError { exit: Exit::Denied, ..CliError::new(clean(problem)) }
}

fn unreadable(argument: &str, path: &Path, error: &io::Error) -> CliError {
    CliError::usage(format!("{argument}: {} cannot be read: {error}", path.display()))
}

fn read_key(path: &Path) -> Result<PublicKey, CliError> {
    const ARGUMENT: &str = "--public-key";
    let pem = fs::read(path).map_err(|error| unreadable(ARGUMENT, path, &error))?;
    let document = SubjectPublicKeyInfoDer::from_pem_slice(&pem);
    let key = document.map_err(|_| KeyError::NotPublic).and_then(|der| PublicKey::from_spki(&der));
    key.map_err(|error| {
        CliError::usage(format!("{ARGUMENT}: {} is not a public key: {error}", path.display()))
    })
}

fn read_stored(path: &Path) -> Result<Checkpoint, CliError> {
    const ARGUMENT: &str = "--checkpoint";
    let text = fs::read(path).map_err(|error| unreadable(ARGUMENT, path, &error))?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    read_checkpoint(line).map_err(|_| {
        let path = path.display();
        CliError::usage(format!("{ARGUMENT}: {path} is not an output of `history checkpoint`"))
    })
}

fn owner(report: &VerifyReport) -> String {
    match report.tenant_id.as_str() {
        "" => "the vendor".into(),
        tenant_id => format!("tenant {}", clean(tenant_id)),
    }
}

fn report(found: &VerifyReport) -> Report {
    let VerifyReport { log, last, last_time, own, kept, is_signed, .. } = found;
    let last_time = last_time.as_deref().map(clean).unwrap_or_default();
    let count = match last.sequence {
        0 => "no events".to_owned(),
        1 => format!("1 event, at {last_time}"),
        count => format!("{count} events, the last at {last_time}"),
    };
    let mut text = format!("The history of {} is valid: {count}.\n", owner(found));
    // A write to a String cannot fail.
    let _ = write!(text, "Log         {}\nHash        {}\n", clean(log), last.hash);
    for (name, checkpoint) in [("Checkpoint", own), ("Stored", kept)] {
        let Some(checkpoint) = checkpoint else { continue };
        let (sequence, time) = (checkpoint.link.sequence, clean(&checkpoint.time));
        let signature = match &checkpoint.signature {
            Some(signature) if *is_signed => format!("signed by key {}", signature.key_id),
            Some(signature) => format!("signature by key {} not verified", signature.key_id),
            None => "not signed".to_owned(),
        };
        let _ = writeln!(text, "{name:<12}after event {sequence}, at {time}, {signature}");
    }
    Report { warnings: warning(found).into_iter().collect(), ..Report::new(text) }
}

/// The part of the history that is not proven.
fn warning(found: &VerifyReport) -> Option<String> {
    let VerifyReport { last, own, kept, is_signed, .. } = found;
    let stored = kept.as_ref().map(|stored| stored.link.sequence);
    let end_is_open = "nothing proves that the end is complete and not rewritten";
    match (own, stored) {
        (Some(_), _) if *is_signed => None,
        (_, Some(stored)) if stored == last.sequence => None,
        (_, Some(stored)) => Some(format!(
            "the stored checkpoint proves the history up to event {stored}; nothing proves the rest"
        )),
        (Some(Checkpoint { signature: Some(_), .. }), None) => {
            Some(format!("{end_is_open}: --public-key verifies the signature of the checkpoint"))
        }
        (Some(_), None) => Some(format!(
            "{end_is_open}: the checkpoint is not signed, and is part of the same file"
        )),
        (None, None) => Some(format!("{end_is_open}: there is no checkpoint")),
    }
}
