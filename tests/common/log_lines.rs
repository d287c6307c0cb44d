//! The lines that a server writes to stderr.

use std::{
    io::{BufRead, BufReader, Read},
    sync::mpsc::{Receiver, Sender},
};

/// Prints and sends each line. With `unread_until`, stops reading once the server listens, until
/// the sender of `unread_until` is dropped.
pub(super) fn read(
    name: &str,
    stderr: impl Read,
    sender: &Sender<String>,
    mut unread_until: Option<Receiver<()>>,
) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        // The test runner shows this output if the test fails.
        eprintln!("{name}: {line}");
        let is_last_at_start = line.contains("\"listening\"") && line.contains("\"metrics\"");
        let _ = sender.send(line);
        if is_last_at_start && let Some(resumed) = unread_until.take() {
            // Returns when the sender is dropped.
            let _ = resumed.recv();
        }
    }
}
