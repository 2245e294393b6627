//! What must not outlive a compiler that is told to end: devices' processes, and temporary folders.
//!
//! Who ends by itself drops both. A signal drops nothing, so a thread waits for those that ask a process to end.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

/// What there is to clear.
struct Left {
    children: Vec<Weak<Mutex<Child>>>,
    folders: Vec<PathBuf>,
}

static LEFT: Mutex<Left> = Mutex::new(Left { children: Vec::new(), folders: Vec::new() });

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, a signal that asks this process to end ends its devices' processes first and removes temporary folders.
/// Signals that are ignored stay so: `nohup` asks for that.
pub fn clear_on_signals() -> std::io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored(&status);
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| !ignored(*signal)))?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            clear();
            // Ends the process as if nothing had been in between: whoever waits for it sees the signal.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    });
    Ok(())
}

/// Which signals a process ignores, by its `/proc/PID/status`.
fn ignored(status: &str) -> impl Fn(i32) -> bool + use<> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    move |signal| mask >> (signal - 1) & 1 == 1
}

fn clear() {
    // The lock is kept: nothing that is begun now would be cleared.
    let left = left();
    for child in left.children.iter().filter_map(Weak::upgrade) {
        let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
    for folder in &left.folders {
        let _ = std::fs::remove_dir_all(folder);
    }
    std::mem::forget(left);
}

/// A child that is ended with this process.
pub fn with_us(child: Child) -> Arc<Mutex<Child>> {
    let child = Arc::new(Mutex::new(child));
    let mut left = left();
    left.children.retain(|child| child.strong_count() > 0);
    left.children.push(Arc::downgrade(&child));
    child
}

/// A temporary folder that is removed when it is dropped, or by [`clear_on_signals`].
#[derive(Debug)]
pub struct TemporaryFolder(TempDir);

impl TemporaryFolder {
    /// An empty folder whose name begins with `prefix`, where the system keeps such.
    pub fn new(prefix: &str) -> std::io::Result<TemporaryFolder> {
        TemporaryFolder::below(&std::env::temp_dir(), prefix)
    }

    /// An empty folder whose name begins with `prefix` in `parent`.
    pub fn below(parent: &Path, prefix: &str) -> std::io::Result<TemporaryFolder> {
        let mut left = left();
        let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        left.folders.push(folder.path().to_path_buf());
        Ok(TemporaryFolder(folder))
    }

    /// The folder, which from now on is like any other.
    pub fn keep(mut self) -> PathBuf {
        self.0.disable_cleanup(true);
        self.0.path().to_path_buf()
    }
}

impl Deref for TemporaryFolder {
    type Target = Path;

    fn deref(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        left().folders.retain(|folder| folder != self.0.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_process_status() {
        let ignored = ignored("Name:\tcompile\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n");
        assert_eq!([SIGHUP, SIGINT, SIGTERM].map(&ignored), [true, false, false]);
        assert!(!super::ignored("nothing")(SIGTERM));
    }

    #[test]
    fn what_ends_by_itself_is_not_cleared() {
        let folder = TemporaryFolder::new("partita-test-").expect("a folder");
        let path = folder.to_path_buf();
        assert!(left().folders.contains(&path));
        drop(folder);
        assert!(!path.exists() && !left().folders.contains(&path));
    }
}
