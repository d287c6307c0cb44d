//! Logs: text for people on a terminal, JSON for machines, always on stderr.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, stderr},
    panic,
};

use tracing::{error, info};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::server::config::LogFormat;

/// Why logging could not be set up. Displayed, it is one plain sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("cannot log by the directives {directives:?}: {cause}")]
pub struct TelemetryError {
    directives: String,
    cause: String,
}

/// Sets up logging for the whole process, by `directives` such as `info,support_access::rpc=warn`, and says what starts.
pub fn init(directives: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let failed = |cause: String| TelemetryError { directives: directives.to_owned(), cause };
    let filter =
        EnvFilter::builder().parse(directives).map_err(|error| failed(error.to_string()))?;
    let registry = tracing_subscriber::registry().with(filter);
    if is_json(format) {
        // The span is the call that a line belongs to.
        let lines = fmt::layer().json().flatten_event(true).with_current_span(true);
        registry.with(lines.with_span_list(false).with_writer(stderr)).try_init()
    } else {
        let has_colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        registry.with(fmt::layer().with_ansi(has_colours).with_writer(stderr)).try_init()
    }
    .map_err(|error| failed(error.to_string()))?;
    log_panics();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        profile = if cfg!(debug_assertions) { "debug" } else { "release" },
        "support-access starts"
    );
    Ok(())
}

fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Auto => !stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

/// A panic becomes a line of the log like any other, not free text in the middle of JSON.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let has_backtrace = backtrace.status() == BacktraceStatus::Captured;
        let backtrace = has_backtrace.then(|| tracing::field::display(&backtrace));
        error!(%panic, backtrace, "panicked");
    }));
}
