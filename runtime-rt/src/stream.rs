//! Byte streams of a hosted operating system for [`crate::FramedStream`].

/// A std stream as an embedded-io one: same reads, same writes.
pub struct StdStream<S>(pub S);

impl<S> embedded_io::ErrorType for StdStream<S> {
    type Error = std::io::Error;
}

impl<S: std::io::Read> embedded_io::Read for StdStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, std::io::Error> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A read that timed out says so in two ways.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
                other => return other,
            }
        }
    }
}

impl<S: std::io::Write> embedded_io::Write for StdStream<S> {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, std::io::Error> {
        loop {
            match self.0.write(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> Result<(), std::io::Error> {
        self.0.flush()
    }
}
