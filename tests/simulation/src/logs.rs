//! Records the log lines of nodes in the history, to explain a violation.

use std::{cell::RefCell, fmt, fmt::Write, sync::Arc};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::checker::Checker;

thread_local! {
    /// The name of the process that runs.
    static RUNNING: RefCell<Arc<str>> = RefCell::new("".into());
}

/// Attributes all log lines to a process, until the next call.
pub(crate) fn set_running(process: &Arc<str>) {
    RUNNING.with_borrow_mut(|running| Arc::clone(process).clone_into(running));
}

/// A subscriber that adds log lines to the history.
pub(crate) struct LogRecorder(pub(crate) Arc<Checker>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for LogRecorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("simulation::node")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(RUNNING.with_borrow(|running| format!("{running}:")));
        event.record(&mut line);
        self.0.log(&line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
