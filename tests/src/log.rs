//! A log that a test reads.

use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// All that was said.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Notes the debug form of something.
    pub fn note(&self, shown: &dyn Debug) {
        writeln!(self.clone(), "{shown:?}").unwrap();
    }
}

impl Write for Log {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
