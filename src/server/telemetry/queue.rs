//! Log lines wait in memory for one thread, which writes them.
//!
//! A write to a pipe or a terminal that has no active reader blocks. Only the writing thread may
//! block: neither a call nor a renewal nor the shutdown waits for a line to be written.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Maximum size of the waiting lines, in bytes. The write in progress may hold as many again.
const BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Size to which an empty buffer shrinks, in bytes.
const BYTES_KEPT: usize = 64 * 1_024;
/// Longest pause between two reports.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Lines that wait to be written.
#[derive(Debug)]
pub(super) struct LineQueue {
    waiting: Mutex<Waiting>,
    /// Notified when the first line waits.
    filled: Condvar,
    /// Notified when all lines are written.
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    lines: Vec<u8>,
    is_writing: bool,
}

impl LineQueue {
    /// An empty queue.
    pub(super) const fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting { lines: Vec::new(), is_writing: false }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// The number of lines that did not fit into the queue, or could not be written.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Adds a line, or drops and counts the line if the queue is full.
    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.len() + line.len() > BYTES_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        self.filled.notify_one();
    }

    /// Writes lines to `out` until the process ends. Calls `report` with the number of newly
    /// dropped lines: after each successful write, and at least every [`REPORT_INTERVAL`] with 0.
    pub(super) fn write_all_to(&self, mut out: impl Write, mut report: impl FnMut(u64)) -> ! {
        let mut batch = Vec::new();
        let mut reported = 0;
        loop {
            self.take(&mut batch);
            let lost = write_lines(&mut out, &batch);
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            // A report that cannot be written would cause the next report at once.
            let is_written = lost == 0 && !batch.is_empty();
            let dropped = if is_written { self.dropped() } else { reported };
            report(dropped - mem::replace(&mut reported, dropped));
            batch.clear();
            batch.shrink_to(BYTES_KEPT);
            self.waiting.lock().is_writing = false;
            self.emptied.notify_all();
        }
    }

    /// Waits for lines, and moves all of them into the empty `batch`. Without lines, returns after
    /// [`REPORT_INTERVAL`].
    fn take(&self, batch: &mut Vec<u8>) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.is_empty() {
            self.filled.wait_for(&mut waiting, REPORT_INTERVAL);
        }
        mem::swap(&mut waiting.lines, batch);
        waiting.is_writing = !batch.is_empty();
    }

    /// Waits until every line is written, for at most `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut waiting = self.waiting.lock();
        while !waiting.lines.is_empty() || waiting.is_writing {
            if self.emptied.wait_until(&mut waiting, deadline).timed_out() {
                return;
            }
        }
    }
}

/// Receives one formatted line in each call, and never blocks or fails.
impl Write for &LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `lines`. Returns the number of lines that could not be written as a whole.
fn write_lines(out: &mut impl Write, mut lines: &[u8]) -> u64 {
    while !lines.is_empty() {
        match out.write(lines) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(count) => lines = lines.get(count..).unwrap_or_default(),
        }
    }
    lines.split(|byte| *byte == b'\n').skip(1).count() as u64
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, pipe},
        sync::{Arc, mpsc},
        thread,
    };

    use super::*;

    /// A queue whose lines are written to `out`, and the reported numbers of dropped lines.
    fn started(out: impl Write + Send + 'static) -> (Arc<LineQueue>, mpsc::Receiver<u64>) {
        let queue = Arc::new(LineQueue::new());
        let (reports, received) = mpsc::channel();
        let writing = Arc::clone(&queue);
        let writer = thread::Builder::new().spawn(move || {
            writing.write_all_to(out, |dropped| {
                if dropped > 0 {
                    reports.send(dropped).unwrap();
                }
            })
        });
        drop(writer.unwrap());
        (queue, received)
    }

    #[test]
    fn a_queue_without_a_reader_drops_and_counts_lines_and_does_not_block() {
        const LINE: &[u8] = &[b'x'; 999];
        const LINES: u64 = 20_000;
        let (reader, out) = pipe().unwrap();
        let (queue, reports) = started(out);
        let line = [LINE, b"\n"].concat();
        for _ in 0..LINES {
            (&*queue).write_all(&line).unwrap();
        }
        let dropped = queue.dropped();
        assert!(dropped > LINES / 2, "{dropped}");
        let started = Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(started.elapsed() >= Duration::from_millis(50), "nothing reads the pipe");

        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let written = lines.by_ref().take(usize::try_from(LINES - dropped).unwrap());
        assert!(written.map(String::into_bytes).all(|line| line == LINE), "lines are whole");
        assert_eq!(reports.recv().unwrap(), dropped, "the loss is reported once");
        queue.flush(Duration::from_mins(1));
        (&*queue).write_all(b"next\n").unwrap();
        assert_eq!(lines.next().unwrap(), "next");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_reported_after_the_next_success() {
        /// Fails twice, in the middle of a line.
        struct Disk(Vec<usize>);
        impl Write for Disk {
            fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
                match self.0.pop() {
                    Some(0) => Err(ErrorKind::StorageFull.into()),
                    Some(count) => Ok(count),
                    None => Ok(lines.len()),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (queue, reports) = started(Disk(vec![0, 0, 2]));
        for line in ["first\n", "second\n", "third\n"] {
            (&*queue).write_all(line.as_bytes()).unwrap();
            queue.flush(Duration::from_mins(1));
        }
        assert_eq!(reports.recv().unwrap(), 2);
        assert_eq!(queue.dropped(), 2);
    }
}
