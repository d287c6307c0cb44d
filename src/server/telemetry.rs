//! Logs: text for people on a terminal, JSON for machines, always on stderr. And traces, to a collector, if one is configured.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, stderr},
    panic,
    time::Duration,
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
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    api::trace,
    server::config::{Common, LogFormat, TraceRatio},
};

/// What traces say who made them.
const SERVICE: &str = "support-access";
/// How long the last spans may take to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why logging could not be set up. Displayed, it is one plain sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Nothing can be logged.
    #[error("cannot log by the directives {directives:?}: {cause}")]
    Logs {
        /// What was to be logged.
        directives: String,
        /// Why not.
        cause: String,
    },
    /// Nothing can be traced.
    #[error("cannot send traces to {endpoint}: {cause}")]
    Traces {
        /// The collector.
        endpoint: String,
        /// Why not.
        cause: String,
    },
}

/// What has to be ended when the process does.
#[derive(Debug)]
#[must_use]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Sets up logging for the whole process, by directives such as `info,support_access::rpc=warn`, and traces, and says what starts.
pub fn init(config: &Common) -> Result<Telemetry, TelemetryError> {
    let directives = &config.log;
    let failed = |cause: String| TelemetryError::Logs { directives: directives.clone(), cause };
    let filter =
        EnvFilter::builder().parse(directives).map_err(|error| failed(error.to_string()))?;
    let traces = config.otlp_endpoint.as_deref();
    let traces = traces.map(|endpoint| exporter(endpoint, config.trace_ratio)).transpose()?;
    // Each has a hint of what it never wants, so that this costs nothing: a layer that is an `Option` would have none.
    let is_line = filter_fn(|it| !is_trace(it)).with_max_level_hint(LevelFilter::TRACE);
    let mut layers = vec![lines(config.log_format).with_filter(filter.and(is_line)).boxed()];
    layers.extend(traces.as_ref().map(|provider| spans(provider).boxed()));
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|error| failed(error.to_string()))?;
    if traces.is_some() {
        trace::collect();
    }
    log_panics();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        profile = if cfg!(debug_assertions) { "debug" } else { "release" },
        traces = config.otlp_endpoint,
        "support-access starts"
    );
    Ok(Telemetry { traces })
}

/// Log lines.
fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
) -> Box<dyn Layer<S> + Send + Sync> {
    if is_json(format) {
        // The span is the call that a line belongs to.
        let lines = fmt::layer().json().flatten_event(true).with_current_span(true);
        lines.with_span_list(false).with_writer(stderr).boxed()
    } else {
        let has_colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        fmt::layer().with_ansi(has_colours).with_writer(stderr).boxed()
    }
}

/// Spans of traces, as they end.
fn spans<S: Subscriber + for<'a> LookupSpan<'a>>(
    provider: &SdkTracerProvider,
) -> impl Layer<S> + use<S> {
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(SERVICE));
    let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
    let is_collected =
        filter_fn(|it| is_trace(it) || it.is_span() && it.target() == trace::CALL_TARGET);
    let layer = layer.with_level(false).with_target(false);
    layer.with_filter(is_collected.with_max_level_hint(LevelFilter::INFO))
}

fn is_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target() == trace::TARGET
}

/// Sends spans to a collector, some at a time, on a thread of its own. What it cannot send in time is dropped.
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
    let resource = Resource::builder().with_service_name(SERVICE).with_attribute(version).build();
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
    /// Sends the last spans.
    pub fn end(self) {
        // The sending is a task of this runtime, and needs one of its threads.
        let flush = |traces: SdkTracerProvider| traces.shutdown_with_timeout(FLUSH_TIMEOUT);
        if let Some(traces) = self.traces
            && let Err(error) = tokio::task::block_in_place(|| flush(traces))
        {
            warn!(%error, "the last traces could not be sent");
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Lest each line that is not logged costs something in every library.
    #[tokio::test]
    async fn what_is_not_logged_is_not_even_looked_at() {
        init(&Common::default()).unwrap().end();
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nor_is_it_with_traces() {
        let otlp_endpoint = Some("http://127.0.0.1:1".into());
        init(&Common { otlp_endpoint, ..Common::default() }).unwrap().end();
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
    }
}
