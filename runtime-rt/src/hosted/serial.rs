//! Serial lines: raw, at the rate of the link, and with waits that end.
//!
//! A line that an operating system hands out is meant for people: it echoes, waits for the end of a line and rewrites
//! bytes. Frames need none of it.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{eprintln, format};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{ControlModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

/// `O_NONBLOCK` and `O_NOCTTY` of Linux: opening waits for no carrier, and the line does not become our terminal.
const OPEN_FLAGS: i32 = 0o4000 | 0o400;

/// Until when hands may be shaken; after that only silence ends a wait.
#[derive(Clone)]
pub struct Greeting {
    give_up: Instant,
    over: Arc<AtomicBool>,
}

impl Greeting {
    /// One that has to be over by then.
    pub fn until(give_up: Instant) -> Greeting {
        Greeting { give_up, over: Arc::new(AtomicBool::new(false)) }
    }

    /// Hands are shaken.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// How long the next wait may be.
    fn limit(&self, deadline: Duration) -> Duration {
        match self.over.load(Ordering::Relaxed) {
            true => deadline,
            false => deadline.min(self.give_up.saturating_duration_since(Instant::now())),
        }
    }
}

/// An open line.
pub struct Serial {
    file: File,
    deadline: Duration,
    greeting: Greeting,
}

impl Serial {
    /// Opens a line and makes it raw, at `baud` bits per second if that is not 0.
    pub fn open(path: &Path, baud: u32, deadline: Duration, greeting: Greeting) -> std::io::Result<Serial> {
        Ok(Serial { file: open_line(path, baud)?, deadline, greeting })
    }

    /// Waits until something can be done, or gives up.
    fn wait(&self, flags: PollFlags) -> std::io::Result<()> {
        let give_up = Instant::now() + self.greeting.limit(self.deadline);
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut waiting = [PollFd::new(&self.file, flags)];
            match poll(&mut waiting, Some(&timeout)) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Serial {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match self.file.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The other end of a pseudo terminal is gone.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => return Ok(0),
                other => return other,
            }
        }
    }
}

impl Write for Serial {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        loop {
            self.wait(PollFlags::OUT)?;
            match self.file.write(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Opens a line that does not block and makes it raw, at `baud` bits per second if that is not 0.
pub fn open_line(path: &Path, baud: u32) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(OPEN_FLAGS).open(path)?;
    let mut line = tcgetattr(&file).map_err(|error| match error {
        rustix::io::Errno::NOTTY => Error::new(ErrorKind::InvalidInput, "it is no serial line"),
        other => other.into(),
    })?;
    line.make_raw();
    // Nobody lifts modem lines here.
    line.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
    line.control_modes &= !(ControlModes::CSTOPB | ControlModes::CRTSCTS);
    line.special_codes[SpecialCodeIndex::VMIN] = 1;
    line.special_codes[SpecialCodeIndex::VTIME] = 0;
    if baud > 0 {
        line.set_speed(baud)?;
    }
    tcsetattr(&file, OptionalActions::Now, &line)?;
    let got = tcgetattr(&file)?.input_speed();
    if baud > 0 && got.abs_diff(baud) > baud / 40 {
        eprintln!("{}: the line runs at {got} bit/s, not {baud}", path.display());
    }
    Ok(file)
}

/// What to say of a peer's serial line that is not named on the command line.
pub fn where_is(peer: &str) -> std::string::String {
    format!("where is the serial line to {peer}? say --uart {peer}=/dev/ttyS0, or whichever it is")
}

// Miri has no terminals.
#[cfg(all(test, not(miri)))]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{InputModes, LocalModes, OutputModes};

    use super::*;

    /// A pseudo terminal: our end and the path of the other.
    fn pair() -> (File, std::path::PathBuf) {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("pseudo terminals are there");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("it is ours");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        (File::from(ours), std::path::PathBuf::from(name.to_string_lossy().into_owned()))
    }

    fn greeting(milliseconds: u64) -> Greeting {
        Greeting::until(Instant::now() + Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_line_is_raw_and_has_its_rate() {
        for baud in [115_200, 921_600, 1_000_000, 250_000] {
            let (mut ours, path) = pair();
            let mut line = Serial::open(&path, baud, Duration::from_secs(5), greeting(5000)).expect("it opens");
            let modes = tcgetattr(&line.file).expect("it is a terminal");
            assert!(!modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
            assert!(!modes.input_modes.intersects(InputModes::ICRNL | InputModes::IXON | InputModes::ISTRIP));
            assert!(!modes.output_modes.contains(OutputModes::OPOST));
            assert_eq!((modes.input_speed(), modes.output_speed()), (baud, baud));
            // Every byte there is, in both directions, as it is.
            let all: Vec<u8> = (0..=255).collect();
            ours.write_all(&all).expect("the line takes them");
            let mut come = [0; 256];
            line.read_exact(&mut come).expect("they come");
            assert_eq!(come.as_slice(), all);
            line.write_all(&all).expect("the line takes them");
            ours.read_exact(&mut come).expect("they come");
            assert_eq!(come.as_slice(), all);
        }
    }

    #[test]
    fn waits_end() {
        let (mut ours, path) = pair();
        let shaken = greeting(100);
        let mut line = Serial::open(&path, 0, Duration::from_millis(300), shaken.clone()).expect("it opens");
        let mut byte = [0];
        let begin = Instant::now();
        assert_eq!(line.read(&mut byte).expect_err("nobody speaks").kind(), ErrorKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_millis(250), "before hands are shaken the earlier end counts");
        shaken.end();
        let begin = Instant::now();
        assert_eq!(line.read(&mut byte).expect_err("nobody speaks").kind(), ErrorKind::TimedOut);
        assert!(begin.elapsed() >= Duration::from_millis(300));
        // A line that nobody reads fills up.
        let filled = (0..64).try_for_each(|_| line.write_all(&[0; 4096]));
        assert_eq!(filled.expect_err("nobody reads").kind(), ErrorKind::TimedOut);
        ours.write_all(b"x").expect("the line takes it");
        assert_eq!(line.read(&mut byte).expect("it comes"), 1);
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let error = Serial::open(Path::new("/dev/null"), 9600, Duration::from_secs(1), greeting(1000)).err();
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::InvalidInput));
    }
}
