//! `support-access history verify`

use std::{
    fmt::Write,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use tokio_rustls::rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

use crate::{
    cli::{failure::Failure, output::Report, table::clean},
    domain::chain::{
        Checkpoint, KeyError, PublicKey, Verifier, VerifyError, VerifyReport,
        verifier::{LINE_LENGTH_MAX, read_checkpoint},
    },
};

/// Verify a history that was exported, without asking any server: that no line was changed, removed, inserted or moved.
///
/// That its end was not cut off, and that it was not rewritten from some line on, only a checkpoint can prove: one that
/// you have kept yourself (--checkpoint), or one that the service has signed (--public-key).
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 it fits; 1 it does not, and the first line that does not fit is named; 64 wrong usage, or
a file that cannot be read.")]
pub(crate) struct VerifyArgs {
    /// What `history export` has written; - is standard input.
    file: PathBuf,
    /// The public half of the server's checkpoint-key, in PEM, as `openssl pkey -pubout` writes it. Then there must be a
    /// checkpoint, and it must be signed with that key.
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// A checkpoint that was kept, as `history checkpoint` has printed it.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Scope history it must be. Default: whoever's the file says.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

pub(crate) fn run(args: &VerifyArgs) -> Result<Report, Failure> {
    let key = args.public_key.as_deref().map(read_key).transpose()?;
    let kept = args.checkpoint.as_deref().map(read_kept).transpose()?;
    let verifier = Verifier::new(key, kept);
    let verifier =
        verifier.map_err(|misfit| Failure::new(clean(&format!("--checkpoint: {misfit}"))))?;
    let input: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&args.file).map_err(|error| unreadable("FILE", &args.file, &error))?)
    };
    let verdict =
        verify(verifier, input).map_err(|error| unreadable("FILE", &args.file, &error))?;
    match verdict {
        Ok(VerifyReport { tenant_id, .. })
            if args.tenant.as_ref().is_some_and(|it| *it != tenant_id) =>
        {
            let found =
                if tenant_id.is_empty() { "the vendor's".into() } else { clean(&tenant_id) };
            Err(Failure::new(format!("it is another history than that of --tenant: {found}")))
        }
        Ok(verdict) => Ok(report(&verdict)),
        Err(fault) => Err(Failure::new(clean(&fault.to_string()))),
    }
}

fn verify(
    mut verifier: Verifier,
    input: impl Read,
) -> io::Result<Result<VerifyReport, VerifyError>> {
    let mut input = BufReader::new(input);
    // One byte more than a line may have, so that a longer one is noticed, and the line's end.
    let most = LINE_LENGTH_MAX as u64 + 2;
    let mut line = Vec::new();
    while input.by_ref().take(most).read_until(b'\n', &mut line)? > 0 {
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if let Err(fault) = verifier.line(&line) {
            return Ok(Err(fault));
        }
        line.clear();
    }
    Ok(verifier.finish())
}

fn unreadable(argument: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{argument}: {} cannot be read: {error}", path.display()))
}

fn read_key(path: &Path) -> Result<PublicKey, Failure> {
    const ARGUMENT: &str = "--public-key";
    let pem = fs::read(path).map_err(|error| unreadable(ARGUMENT, path, &error))?;
    let document = SubjectPublicKeyInfoDer::from_pem_slice(&pem);
    let key = document.map_err(|_| KeyError::NotPublic).and_then(|der| PublicKey::from_spki(&der));
    key.map_err(|error| {
        Failure::usage(format!("{ARGUMENT}: {error}, but {} does not", path.display()))
    })
}

fn read_kept(path: &Path) -> Result<Checkpoint, Failure> {
    const ARGUMENT: &str = "--checkpoint";
    let text = fs::read(path).map_err(|error| unreadable(ARGUMENT, path, &error))?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    read_checkpoint(line).map_err(|_| {
        let shown = path.display();
        Failure::usage(format!("{ARGUMENT}: {shown} is not what `history checkpoint` has printed"))
    })
}

fn report(verdict: &VerifyReport) -> Report {
    let VerifyReport { log, tenant_id, last, last_time, own, kept, is_signed } = verdict;
    let whose = match tenant_id.as_str() {
        "" => "the vendor".to_owned(),
        tenant_id => format!("tenant {}", clean(tenant_id)),
    };
    let last_time = last_time.as_deref().map(clean).unwrap_or_default();
    let count = match last.sequence {
        0 => "no events".to_owned(),
        1 => format!("1 event, of {last_time}"),
        many => format!("{many} events, the last of {last_time}"),
    };
    let mut text = format!("The history of {whose} fits together: {count}.\n");
    // Writing to a text cannot fail.
    let _ = write!(text, "Log         {}\nHash        {}\n", clean(log), last.hash);
    for (name, checkpoint) in [("Checkpoint", own), ("Kept", kept)] {
        let Some(checkpoint) = checkpoint else { continue };
        let (sequence, time) = (checkpoint.link.sequence, clean(&checkpoint.time));
        let by = match &checkpoint.signature {
            Some(signature) if *is_signed => format!("signed by key {}", signature.key_id),
            Some(signature) => format!("says to be signed by key {}", signature.key_id),
            None => "not signed".to_owned(),
        };
        let _ = writeln!(text, "{name:<12}of {time}, after event {sequence}, {by}");
    }
    Report { text, warning: warning(verdict), ..Report::default() }
}

/// What was not proven.
fn warning(verdict: &VerifyReport) -> Option<String> {
    let VerifyReport { last, own, kept, is_signed, .. } = verdict;
    let vouched = kept.as_ref().map(|kept| kept.link.sequence);
    match (own, vouched) {
        (Some(_), _) if *is_signed => None,
        (_, Some(vouched)) if vouched == last.sequence => None,
        (_, Some(vouched)) => Some(format!(
            "nothing proves what comes after event {vouched}, up to which the checkpoint vouches"
        )),
        (Some(Checkpoint { signature: Some(_), .. }), None) => Some(
            "the signature was not verified, so that nothing proves that the end was not cut off or rewritten: \
             give --public-key"
                .into(),
        ),
        (Some(_), None) => Some(
            "nothing proves that the end was not cut off or rewritten: the checkpoint is in the same file and not \
             signed, so whoever could change the file could change it, too"
                .into(),
        ),
        (None, None) => Some(
            "nothing proves that the end was not cut off or rewritten: there is no checkpoint".into(),
        ),
    }
}
