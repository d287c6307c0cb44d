//! Collects the log lines of a test.

use std::io::{self, Write};

use parking_lot::Mutex;

#[derive(Default)]
pub(super) struct Written(Mutex<Vec<u8>>);

impl Written {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl Write for &Written {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
