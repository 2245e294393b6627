//! What must not outlive a compiler that is told to end: devices' processes, and temporary folders.
//!
//! Who ends by itself drops both. A signal drops nothing, so a thread waits for those that ask a process to end.

use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
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

/// Held by whoever does what must not be left half done.
static WHOLE: Mutex<()> = Mutex::new(());

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

/// Until what this returns is dropped, signals that ask this process to end are not followed. Keep it short.
pub fn uninterrupted() -> MutexGuard<'static, ()> {
    WHOLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clear() {
    // Both locks are kept: nothing that is begun now would be cleared.
    std::mem::forget(uninterrupted());
    let left = left();
    for child in left.children.iter().filter_map(Weak::upgrade) {
        let mut child = locked(&child);
        let _ = child.kill();
        let _ = child.wait();
    }
    for folder in &left.folders {
        let _ = std::fs::remove_dir_all(folder);
    }
    std::mem::forget(left);
}

/// Starts a command that is ended with this process.
pub fn spawn(command: &mut Command) -> std::io::Result<Arc<Mutex<Child>>> {
    // Locked before it starts: there is no child that nobody knows.
    let mut left = left();
    let child = Arc::new(Mutex::new(command.spawn()?));
    left.children.retain(|child| child.strong_count() > 0);
    left.children.push(Arc::downgrade(&child));
    Ok(child)
}

/// A child, for as long as what is returned is kept.
pub fn locked(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a command that is ended with this process; it has no input, and only what it says on standard error is kept.
pub fn output(command: &mut Command) -> std::io::Result<Output> {
    let child = spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()))?;
    let messages = locked(&child).stderr.take();
    let mut stderr = Vec::new();
    let read = messages.map_or(Ok(0), |mut messages| messages.read_to_end(&mut stderr));
    // It has closed its end: waiting, and so keeping the lock, is short.
    let status = locked(&child).wait()?;
    read?;
    Ok(Output { status, stdout: Vec::new(), stderr })
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
    fn a_command_runs_as_a_child_that_is_known() {
        let output =
            output(Command::new("sh").args(["-c", "cat; echo ignored; echo said >&2; exit 3"])).expect("a shell");
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(3), b"said\n".as_slice()));
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
