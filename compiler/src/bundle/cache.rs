//! What all bundles have in common, compiled once: the runtime and the crates it needs, per kind of device, settings,
//! runtime and Rust version, in the user's cache folder.
//!
//! An entry is a cargo target folder in which no device has been built yet, and the runtime's source that belongs to
//! it, both with their times, since cargo compares those. Whoever builds links it into a folder of its own, so any
//! number of compilers may work at once; cargo checks everything that it finds there as ever, so an entry can make a
//! build quicker, but not wrong.
//!
//! Compiled code names the folder where it was made. Entries are therefore made in one place, one at a time, and that
//! place is called `/partita` in all of them: programs do not depend on the machine or on what was cached.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::interrupt::TemporaryFolder;

/// Bytes of all entries together; the oldest go first.
const MOST_BYTES: u64 = 2 << 30;

/// Work folders that were last changed so long ago are of compilers that were killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

static DISABLED: AtomicBool = AtomicBool::new(false);

/// From now on this process neither reads nor fills the user's cache.
pub fn disable() {
    DISABLED.store(true, Ordering::Relaxed);
}

/// A folder of entries and one to work in.
pub struct Cache {
    root: PathBuf,
    /// The folder, if it is for this build alone.
    _alone: Option<TemporaryFolder>,
}

/// A folder that nobody else uses until this is dropped, which removes it.
pub struct WorkFolder {
    path: PathBuf,
    lock: Lock,
}

/// A complete entry, which nobody removes until this is dropped.
pub struct Entry {
    /// Its folder.
    pub path: PathBuf,
    _lock: Lock,
}

impl Cache {
    /// The user's cache; or an empty one for this build alone, if that is wanted or the user has none.
    pub fn open() -> anyhow::Result<Cache> {
        let shared = if DISABLED.load(Ordering::Relaxed) { None } else { user_folder() };
        Cache::at(shared)
    }

    fn at(shared: Option<PathBuf>) -> anyhow::Result<Cache> {
        let usable = |root: &PathBuf| {
            let ready = ["builds", "work"].iter().all(|name| fs::create_dir_all(root.join(name)).is_ok());
            ready && tempfile::tempfile_in(root.join("work")).is_ok()
        };
        if let Some(root) = shared.filter(usable) {
            return Ok(Cache { root, _alone: None });
        }
        let alone = TemporaryFolder::new("partita-build-");
        let alone = alone.context("creating a temporary folder to build in")?;
        let root = alone.to_path_buf();
        for name in ["builds", "work"] {
            fs::create_dir(root.join(name)).with_context(|| format!("creating a folder in `{}`", root.display()))?;
        }
        Ok(Cache { root, _alone: Some(alone) })
    }

    /// Folder below which everything is compiled.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// An empty folder of that name to build in. Waits until no other compiler builds the same.
    pub fn work_folder(&self, name: &str) -> anyhow::Result<WorkFolder> {
        let path = self.work().join(name);
        let lock = Lock::take(&path.with_extension("lock"), Mode::Alone)?;
        remove(&path)?;
        fs::create_dir(&path).with_context(|| format!("creating `{}`", path.display()))?;
        Ok(WorkFolder { path, lock })
    }

    /// The entry of that name, made by `make` in an empty folder if it is not there.
    pub fn entry(&self, name: &str, make: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<Entry> {
        let path = self.root.join("builds").join(name);
        loop {
            let lock = Lock::take(&path.with_extension("lock"), Mode::Shared)?;
            if path.exists() {
                // Only eviction reads it: that it cannot be written is no reason to fail.
                let _ = fs::write(path.join("used"), b"");
                return Ok(Entry { path, _lock: lock });
            }
            drop(lock);
            let seed = self.work_folder("seed")?;
            if path.exists() {
                continue;
            }
            make(seed.path())?;
            fs::rename(seed.path(), &path).with_context(|| format!("writing `{}`", path.display()))?;
            self.evict(name, MOST_BYTES);
        }
    }

    /// Removes entries that were used longest ago until the others take no more than so many bytes, and what killed
    /// compilers have left. That something cannot be removed, or is in use, is no reason to fail.
    fn evict(&self, keep: &str, most_bytes: u64) {
        let folders = |folder: PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
        };
        let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let remove_unused = |path: &Path| {
            if let Ok(Some(lock)) = Lock::try_take(&path.with_extension("lock")) {
                let _ = remove(path);
                lock.forget();
            }
        };
        let mut entries: Vec<(SystemTime, PathBuf)> = folders(self.root.join("builds"))
            .map(|path| (changed(&path.join("used")).unwrap_or(SystemTime::UNIX_EPOCH), path))
            .filter(|(_, path)| !path.ends_with(keep))
            .collect();
        entries.sort_by(|a, b| b.cmp(a));
        let mut bytes = size_bytes(&self.root.join("builds").join(keep));
        for (_, path) in entries {
            bytes += size_bytes(&path);
            if bytes > most_bytes {
                remove_unused(&path);
            }
        }
        let abandoned = |path: &PathBuf| changed(path).is_some_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED));
        folders(self.work()).filter(abandoned).for_each(|path| remove_unused(&path));
    }
}

impl WorkFolder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // What is left is removed by whoever builds the same, or as abandoned.
        let _ = remove(&self.path);
        self.lock.forget_file();
    }
}

/// `$XDG_CACHE_HOME/partita`, or `~/.cache/partita`.
fn user_folder() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let stated = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).and_then(absolute);
    let folder = stated.or_else(|| Some(absolute(std::env::home_dir()?)?.join(".cache")));
    folder.map(|folder| folder.join("partita"))
}

/// A name for whatever has these parts.
pub fn name_of(parts: &[impl AsRef<[u8]>]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.as_ref().len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Copies a folder. Files are linked, and so keep their times: cargo and rustc make new ones, and write nothing into those of
/// what is built already. Hidden ones, which cargo locks and writes, are copied.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let context = || format!("copying `{}`", from.display());
    fs::create_dir(to).with_context(context)?;
    for entry in fs::read_dir(from).with_context(context)? {
        let entry = entry.with_context(context)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().with_context(context)?.is_dir() {
            copy(&source, &target)?;
            continue;
        }
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_hidden || fs::hard_link(&source, &target).is_err() {
            let time = entry.metadata().and_then(|metadata| metadata.modified()).with_context(context)?;
            fs::copy(&source, &target).with_context(context)?;
            let file = File::options().append(true).open(&target).with_context(context)?;
            file.set_times(FileTimes::new().set_modified(time)).with_context(context)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

fn size_bytes(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    metadata.len() + below.map(|entry| size_bytes(&entry.path())).sum::<u64>()
}

#[derive(Clone, Copy)]
enum Mode {
    Alone,
    Shared,
}

/// A locked file. The system lets go of it when the process ends, however it ends.
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    fn take(path: &Path, mode: Mode) -> anyhow::Result<Lock> {
        let context = || format!("locking `{}`; --no-build-cache does without", path.display());
        loop {
            let file = Lock::open(path).with_context(context)?;
            match mode {
                Mode::Alone => file.lock(),
                Mode::Shared => file.lock_shared(),
            }
            .with_context(context)?;
            // Whoever had it may have removed the file, and others may hold the next one.
            if same_file(&file, path) {
                return Ok(Lock { file, path: path.to_path_buf() });
            }
        }
    }

    /// The lock, if nobody else has it.
    fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        let file = Lock::open(path)?;
        let taken = file.try_lock().is_ok() && same_file(&file, path);
        Ok(taken.then(|| Lock { file, path: path.to_path_buf() }))
    }

    fn open(path: &Path) -> io::Result<File> {
        File::options().create(true).truncate(false).write(true).open(path)
    }

    /// Removes the file of a lock that is held alone, and lets go of it.
    fn forget(self) {
        self.forget_file();
    }

    fn forget_file(&self) {
        if same_file(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn an_entry_is_made_once_by_several_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = Cache::at(Some(folder.path().to_path_buf())).expect("a cache");
                    let entry = cache.entry("one", |seed| {
                        made.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(20));
                        Ok(fs::write(seed.join("file"), "made")?)
                    });
                    let entry = entry.expect("an entry");
                    assert_eq!(fs::read_to_string(entry.path.join("file")).expect("it is there"), "made");
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn what_failed_is_made_again() {
        let cache = Cache::at(None).expect("a cache");
        assert!(cache.entry("one", |_| anyhow::bail!("no compiler")).is_err());
        assert!(cache.entry("one", |_| Ok(())).is_ok());
        assert_eq!(fs::read_dir(cache.work()).expect("a folder").count(), 0, "nothing is left behind");
    }

    #[test]
    fn the_oldest_entries_go() {
        let cache = Cache::at(None).expect("a cache");
        for name in ["a", "b", "c"] {
            cache.entry(name, |seed| Ok(fs::write(seed.join("file"), vec![0; 100_000])?)).expect("an entry");
            let used = File::options().write(true).open(cache.root.join("builds").join(name).join("used"));
            let age = Duration::from_secs(if name == "a" { 50 } else { 100 });
            used.and_then(|file| file.set_modified(SystemTime::now() - age)).expect("a file");
        }
        cache.evict("c", 250_000);
        let there = |name: &str| cache.root.join("builds").join(name).exists();
        assert_eq!(["a", "b", "c"].map(there), [true, false, true]);
        // What is in use stays.
        let held = cache.entry("a", |_| anyhow::bail!("it is there")).expect("an entry");
        cache.evict("c", 0);
        assert_eq!(["a", "c"].map(there), [true, true]);
        drop(held);
        cache.evict("c", 0);
        assert_eq!(["a", "c"].map(there), [false, true]);
    }

    #[test]
    fn a_work_folder_is_empty_and_goes() {
        let cache = Cache::at(None).expect("a cache");
        let path = cache.work().join("name");
        fs::create_dir_all(path.join("left/behind")).expect("a folder");
        let work = cache.work_folder("name").expect("a folder");
        assert_eq!(fs::read_dir(work.path()).expect("a folder").count(), 0);
        drop(work);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_done_without() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "not a folder").expect("written");
        let cache = Cache::at(Some(file)).expect("another cache");
        assert!(cache.entry("one", |_| Ok(())).is_ok());
    }

    #[test]
    fn copies_keep_their_times_and_what_cargo_writes_is_not_shared() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("below")).expect("a folder");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let files = ["below/file", "below/.lock"];
        for file in files {
            fs::write(from.join(file), "text").expect("written");
            let opened = File::options().write(true).open(from.join(file));
            opened.and_then(|file| file.set_modified(time)).expect("set");
        }
        copy(&from, &to).expect("copied");
        let links = files.map(|file| {
            let metadata = fs::metadata(to.join(file)).expect("it is there");
            assert_eq!(metadata.modified().expect("a time"), time);
            metadata.nlink()
        });
        assert_eq!(links, [2, 1]);
    }

    #[test]
    fn names_tell_parts_apart() {
        assert_ne!(name_of(&["ab", "c"]), name_of(&["a", "bc"]));
        assert_eq!(name_of(&["ab", "c"]).len(), 32);
    }
}
