//! Serial lines: raw, and at the rate of the link.
//!
//! A line that an operating system hands out is meant for people: it echoes, waits for the end of a line and rewrites
//! bytes. Frames need none of it.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::{eprintln, format};

use rustix::termios::{ControlModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

/// `O_NONBLOCK` and `O_NOCTTY` of Linux: opening waits for no carrier, and the line does not become our terminal.
const OPEN_FLAGS: i32 = 0o4000 | 0o400;

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
    use std::io::{Read, Write};
    use std::vec::Vec;

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

    /// Takes as many bytes as fit; the line does not block.
    fn take(line: &mut File, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            match line.read(bytes) {
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_line_is_raw_and_has_its_rate() {
        for baud in [115_200, 921_600, 1_000_000, 250_000] {
            let (mut ours, path) = pair();
            let mut line = open_line(&path, baud).expect("it opens");
            let modes = tcgetattr(&line).expect("it is a terminal");
            assert!(!modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
            assert!(!modes.input_modes.intersects(InputModes::ICRNL | InputModes::IXON | InputModes::ISTRIP));
            assert!(!modes.output_modes.contains(OutputModes::OPOST));
            assert_eq!((modes.input_speed(), modes.output_speed()), (baud, baud));
            // Every byte there is, in both directions, as it is.
            let all: Vec<u8> = (0..=255).collect();
            ours.write_all(&all).expect("the line takes them");
            let mut come = [0; 256];
            take(&mut line, &mut come);
            assert_eq!(come.as_slice(), all);
            line.write_all(&all).expect("the line takes them");
            ours.read_exact(&mut come).expect("they come");
            assert_eq!(come.as_slice(), all);
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let error = open_line(Path::new("/dev/null"), 9600).err();
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::InvalidInput));
    }
}
