//! Reads what the user configures with: regular files of bounded size, so that neither a pipe nor a device nor a mistaken
//! path makes the compiler wait or fill memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use partita_ir::diagnostic::size;

/// Most bytes of a cluster, target, measurement or tuning file.
pub const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Most bytes of a plan, which the compiler itself writes.
pub const MAX_PLAN_BYTES: u64 = 256 << 20;

/// Opens a regular file and says how long it is; in words why not, for a message that names the path.
pub fn open(path: &Path) -> Result<(File, u64), String> {
    // Opening a pipe would otherwise wait for somebody to write into it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let refuse = |error: std::io::Error| format!("cannot be read: {error}");
    let file = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| refuse(errno.into()))?);
    let metadata = file.metadata().map_err(refuse)?;
    if metadata.is_dir() {
        return Err("is a folder, expected a file".to_string());
    }
    if !metadata.is_file() {
        return Err("is not a regular file".to_string());
    }
    Ok((file, metadata.len()))
}

/// The bytes of a regular file; in words why not.
pub fn read(path: &Path, most_bytes: u64) -> Result<Vec<u8>, String> {
    let (file, length) = open(path)?;
    let too_large = || format!("is larger than {}", size(most_bytes));
    if length > most_bytes {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(most_bytes + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > most_bytes { Err(too_large()) } else { Ok(bytes) }
}

/// The text of a regular file of at most [`MAX_TEXT_BYTES`]; in words why not.
pub fn read_text(path: &Path) -> Result<String, String> {
    into_text(read(path, MAX_TEXT_BYTES)?)
}

/// Bytes as text; in words why not.
pub fn into_text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes)
        .map_err(|error| format!("is not text: byte {} is not UTF-8", error.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{MAX_TEXT_BYTES, read_text};

    #[test]
    fn only_small_regular_files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        assert_eq!(read_text(&file("good", b"a = 1")).as_deref(), Ok("a = 1"));
        let most = MAX_TEXT_BYTES as usize;
        assert!(read_text(&file("full", &vec![b' '; most])).is_ok());
        assert_eq!(read_text(&file("large", &vec![b' '; most + 1])), Err("is larger than 1 MiB".to_string()));
        assert_eq!(read_text(&file("binary", b"ab\xff")), Err("is not text: byte 2 is not UTF-8".to_string()));
        let started = Instant::now();
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        for (path, words) in [
            (pipe.as_path(), "not a regular file"),
            ("/dev/zero".as_ref(), "not a regular file"),
            (folder.path(), "a folder"),
            (&folder.path().join("missing"), "No such file"),
            (&folder.path().join("good/below"), "Not a directory"),
        ] {
            let message = read_text(path).expect_err("no regular file");
            assert!(message.contains(words), "{}: {message}", path.display());
        }
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
