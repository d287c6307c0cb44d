//! Logs on stderr, and traces to a collector.
//!
//! A thread writes the log lines, so that a log without a reader delays nothing (`queue.rs`). The
//! number of lines that a caller can cause is bounded (`limit.rs`).

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fs::File,
    io::{self, IsTerminal, stderr},
    os::fd::AsFd,
    panic,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tonic::transport::ClientTlsConfig;
use tracing::{Metadata, Subscriber, error, info, warn};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, LevelFilter, ParseError, Targets, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    api::trace,
    server::config::{Common, LogFormat, TraceRatio},
};
use limit::{LimitedFormat, LineLimit};
use queue::{LineQueue, REPORT_INTERVAL};
use text::QuotedFields;

mod limit;
mod queue;
mod text;
#[cfg(test)]
mod written;

/// The service name in traces.
const SERVICE_NAME: &str = "support-access";
/// Timeout for sending the last spans at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for writing the last log lines at shutdown.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The lines that wait to be written. Global, because the subscriber is global.
static LINES: LineQueue = LineQueue::new();
/// Decides which lines are written.
static LIMIT: LazyLock<LineLimit> = LazyLock::new(LineLimit::new);

/// Reason why logs or traces cannot be set up. The message is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Logs cannot be set up.
    #[error("cannot log with the directives {directives:?}: {cause}")]
    Logs {
        /// The log filter.
        directives: String,
        /// The cause.
        cause: String,
    },
    /// Traces cannot be set up.
    #[error("cannot send traces to {endpoint}: {cause}")]
    Traces {
        /// The collector.
        endpoint: String,
        /// The cause.
        cause: String,
    },
}

/// The numbers of log lines that were not written.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinesNotWritten {
    /// Lines that did not fit into the queue, or could not be written.
    pub(super) dropped: u64,
    /// Lines above the limit of their call site.
    pub(super) left_out: u64,
}

/// The exporter of traces, if there is one. Call [`Telemetry::shut_down`] before the process exits.
#[derive(Debug)]
#[must_use]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Sets up logs and traces of the whole process.
pub(super) fn init(config: &Common) -> Result<Telemetry, TelemetryError> {
    let directives = &config.log;
    let failed = |cause: String| TelemetryError::Logs { directives: directives.clone(), cause };
    let filter: Targets =
        directives.parse().map_err(|error: ParseError| failed(error.to_string()))?;
    let traces = config.otlp_endpoint.as_deref();
    let traces = traces.map(|endpoint| exporter(endpoint, config.trace_ratio)).transpose()?;
    // Every layer has a maximum level hint, so that disabled events cost nothing. An `Option` of a
    // layer has no hint.
    let is_line = filter_fn(|metadata| !is_trace(metadata)).with_max_level_hint(LevelFilter::TRACE);
    let mut layers = vec![lines(config.log_format).with_filter(filter.and(is_line)).boxed()];
    layers.extend(traces.as_ref().map(|provider| spans(provider).boxed()));
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|error| failed(error.to_string()))?;
    start_writer().map_err(|error| failed(error.to_string()))?;
    if traces.is_some() {
        trace::enable();
    }
    log_panics();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        profile = if cfg!(debug_assertions) { "debug" } else { "release" },
        traces = config.otlp_endpoint,
        "starting support-access"
    );
    Ok(Telemetry { traces })
}

/// The layer that writes log lines.
fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
) -> Box<dyn Layer<S> + Send + Sync> {
    if is_json(format) {
        // The current span is the call to which a line belongs.
        let lines = fmt::layer().json().flatten_event(true).with_current_span(true);
        let lines = lines.with_span_list(false).with_writer(|| &LINES);
        lines.map_event_format(|format| LimitedFormat::new(format, &LIMIT)).boxed()
    } else {
        let has_colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let lines = fmt::layer().fmt_fields(QuotedFields).with_ansi(has_colours);
        let lines = lines.with_writer(|| &LINES);
        lines.map_event_format(|format| LimitedFormat::new(format, &LIMIT)).boxed()
    }
}

/// Starts the thread that writes the lines.
fn start_writer() -> io::Result<()> {
    // Not `Stderr`, whose lock would block other writers, too.
    let out = File::from(stderr().as_fd().try_clone_to_owned()?);
    let mut last_report = Instant::now();
    let report = move |dropped| {
        if dropped > 0 {
            warn!(lines = dropped, "log lines were dropped, because the log was not read");
        }
        if last_report.elapsed() >= REPORT_INTERVAL {
            last_report = Instant::now();
            LIMIT.report();
        }
    };
    let writer = thread::Builder::new().name("log".into());
    writer.spawn(move || LINES.write_all_to(out, report)).map(drop)
}

/// The numbers of log lines that were not written.
pub(super) fn lines_not_written() -> LinesNotWritten {
    LinesNotWritten { dropped: LINES.dropped(), left_out: LIMIT.left_out() }
}

/// The layer that exports spans.
fn spans<S: Subscriber + for<'a> LookupSpan<'a>>(
    provider: &SdkTracerProvider,
) -> impl Layer<S> + use<S> {
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(SERVICE_NAME));
    let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
    let is_collected = filter_fn(|metadata| {
        is_trace(metadata) || metadata.is_span() && metadata.target() == trace::CALL_TARGET
    });
    let layer = layer.with_level(false).with_target(false);
    layer.with_filter(is_collected.with_max_level_hint(LevelFilter::INFO))
}

fn is_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target() == trace::TARGET
}

/// Sends spans to a collector in batches, on its own thread. Drops spans that cannot be sent within
/// the timeout.
fn exporter(endpoint: &str, ratio: TraceRatio) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    let exporter = if endpoint.starts_with("https:") {
        exporter.with_tls_config(ClientTlsConfig::new().with_native_roots())
    } else {
        exporter
    };
    let exporter = exporter.build().map_err(|error| {
        let (endpoint, cause) = (endpoint.to_owned(), error.to_string());
        TelemetryError::Traces { endpoint, cause }
    })?;
    let ratio = Sampler::TraceIdRatioBased(f64::from(ratio.0) / 1_000_000.0);
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource =
        Resource::builder().with_service_name(SERVICE_NAME).with_attribute(version).build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
    let provider = provider.with_sampler(Sampler::ParentBased(Box::new(ratio)));
    Ok(provider.with_resource(resource).build())
}

fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Auto => !stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

impl Telemetry {
    /// Sends the last spans, and writes the last log lines, each within a timeout.
    pub fn shut_down(self) {
        // The exporter needs a worker thread of this runtime while this thread blocks.
        let flush = |traces: SdkTracerProvider| traces.shutdown_with_timeout(FLUSH_TIMEOUT);
        if let Some(traces) = self.traces
            && let Err(error) = tokio::task::block_in_place(|| flush(traces))
        {
            warn!(%error, "cannot send the last traces");
        }
        LIMIT.report();
        LINES.flush(LOG_FLUSH_TIMEOUT);
    }
}

/// Logs panics as structured lines.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let has_backtrace = backtrace.status() == BacktraceStatus::Captured;
        let backtrace = has_backtrace.then(|| tracing::field::display(&backtrace));
        error!(%panic, backtrace, "panicked");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise every disabled event in every library has a cost.
    #[tokio::test]
    async fn disabled_levels_are_disabled_globally() {
        init(&Common::default()).unwrap().shut_down();
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn disabled_levels_are_disabled_globally_with_traces() {
        let otlp_endpoint = Some("http://127.0.0.1:1".into());
        init(&Common { otlp_endpoint, ..Common::default() }).unwrap().shut_down();
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
    }
}
