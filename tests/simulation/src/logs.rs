//! What the nodes log, as lines of the history: for people who look for the cause of a failure.

use std::{cell::RefCell, fmt, fmt::Write, sync::Arc};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::checker::Judge;

thread_local! {
    /// Scope turn it is.
    static TURN: RefCell<Arc<str>> = RefCell::new("".into());
}

/// From now on it is the turn of a process.
pub(crate) fn turn_of(name: &Arc<str>) {
    TURN.with_borrow_mut(|turn| Arc::clone(name).clone_into(turn));
}

/// Writes what is logged into the history.
pub(crate) struct Logs(pub(crate) Arc<Judge>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("support_access::node")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(TURN.with_borrow(|turn| format!("{turn}:")));
        event.record(&mut line);
        self.0.note(&line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
