//! Folders that tests read.

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in a folder of the repository").to_path_buf()
}

/// Material shared between checkouts, beside the repository; absent on most machines.
pub fn shared() -> Option<PathBuf> {
    let folder = repository().parent()?.join("shared");
    folder.is_dir().then_some(folder)
}

/// Every file below a folder that `keep` accepts, in order of path; build outputs and hidden folders are left out.
pub fn files_below(folder: &Path, keep: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.') && !["target", "out", "__pycache__"].contains(&name.as_ref()) {
                    folders.push(path);
                }
            } else if keep(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Whether more of the same is tested, as `PARTITA_LONG=1` asks for.
pub fn is_long() -> bool {
    std::env::var_os("PARTITA_LONG").is_some()
}

/// What is tested each time, and behind it what only with `PARTITA_LONG=1`.
pub fn further<T: Copy>(always: &[T], long: &[T]) -> Vec<T> {
    [always, if is_long() { long } else { &[] }].concat()
}
