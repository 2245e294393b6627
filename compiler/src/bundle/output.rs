//! The output folder, when something is there already: what was emitted before makes way, what the user has put there
//! stays, and what the user has changed is named and refused.
//!
//! [`MANIFEST`] lists every emitted file with its digest, as `sha256sum -c` reads it. Reports are not listed: they are
//! written again with every measurement.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use partita_files::file;
use sha2::{Digest, Sha256};

use super::cargo::{PROGRAMS, SYMBOLS};
use crate::interrupt::{self, TemporaryFolder};

/// The list of emitted files.
pub const MANIFEST: &str = "manifest.sha256";

/// What is emitted but not listed.
const UNLISTED: [&str; 3] = [MANIFEST, "report.json", "report.html"];

/// Most bytes of an emitted file.
const MOST_BYTES: u64 = 1 << 32;

/// Most bytes of a report.
const MOST_REPORT_BYTES: u64 = 256 << 20;

/// Most files that a message names.
const MOST_NAMED: usize = 10;

/// Digests of emitted files, by path in the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Manifest {
    digests: BTreeMap<String, String>,
}

/// Whether a bundle may be written to `out`.
///
/// Errors: `out` is a link or a file, holds something else than a bundle, or a bundle in which emitted files were
/// changed.
pub fn check(out: &Path) -> anyhow::Result<()> {
    let place = out.display();
    ensure!(!out.is_symlink(), "`{place}` is a symbolic link; give the folder itself with --out");
    if !out.exists() {
        return Ok(());
    }
    ensure!(out.is_dir(), "`{place}` is no folder; give another one with --out");
    let Some(manifest) = Manifest::read(out)? else {
        // Nothing, or the report that --simulate leaves.
        let others: Vec<String> = files_below(out)?
            .into_iter()
            .filter(|path| !is_report(out, path))
            .map(|path| path.display().to_string())
            .collect();
        ensure!(
            others.is_empty(),
            "`{place}` exists and is not a bundle of ours: it has no {MANIFEST}, but {}; give another folder with --out, or \
             remove this one",
            others.iter().take(MOST_NAMED).cloned().collect::<Vec<String>>().join(", ")
        );
        return Ok(());
    };
    let mut changed = Vec::new();
    for (path, digest) in &manifest.digests {
        // What was removed can be written again.
        if out.join(path).symlink_metadata().is_ok()
            && digest_of(&out.join(path)).map_or(true, |found| found != *digest)
        {
            changed.push(path.clone());
        }
    }
    refuse(out, &changed, "was changed since it was written", "move what you have changed")
}

fn refuse(out: &Path, paths: &[String], what: &str, advice: &str) -> anyhow::Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let named: String = paths.iter().take(MOST_NAMED).map(|path| format!("\n  {path}")).collect();
    let more = paths.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    bail!(
        "compiling into `{}` would lose work; this {what}:{named}{more}\n\
         {advice} out of the folder, or give another one with --out",
        out.display()
    )
}

/// Puts the staged bundle in the place of `out`. Files there that were not emitted stay, and so do programs if all that
/// they are built from stays as it is.
///
/// Everything is complete before anything is moved; a failure leaves the earlier bundle, and a signal waits until all is in its
/// place.
pub fn replace(staging: TemporaryFolder, out: &Path) -> anyhow::Result<()> {
    let mut manifest = Manifest::of(&staging)?;
    let before = if out.exists() { Manifest::read(out)? } else { None };
    let mut theirs = BTreeSet::new();
    if out.exists() {
        let programs = before.as_ref().filter(|before| before.sources() == manifest.sources());
        let programs: BTreeMap<String, String> =
            programs.into_iter().flat_map(Manifest::programs).filter(|(path, _)| out.join(path).exists()).collect();
        let emitted = |path: &Path| {
            let Some(path) = path.to_str() else { return false };
            let listed = before.as_ref().map(|before| before.digests.contains_key(path));
            listed.unwrap_or(false) && !programs.contains_key(path) || UNLISTED.contains(&path)
        };
        // Empty folders that are there again need nothing.
        let again = |path: &Path| out.join(path).is_dir() && staging.join(path).is_dir();
        theirs = files_below(out)?.into_iter().filter(|path| !emitted(path) && !again(path)).collect();
        let in_the_way = theirs.iter().filter(|path| staging.join(path).symlink_metadata().is_ok());
        let in_the_way: Vec<String> = in_the_way.map(|path| path.display().to_string()).collect();
        refuse(out, &in_the_way, "was not written by Partita and is in the way", "move it")?;
        manifest.digests.extend(programs);
    }
    manifest.write(&staging)?;
    let _whole = interrupt::uninterrupted();
    let old = staging.with_extension("old");
    if out.exists() {
        fs::rename(out, &old).with_context(|| format!("moving `{}` aside", out.display()))?;
    }
    let staged = staging.keep();
    fs::set_permissions(&staged, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    if let Err(error) = fs::rename(&staged, out) {
        if old.exists() {
            let _ = fs::rename(&old, out);
        }
        return Err(error).with_context(|| format!("writing `{}`", out.display()));
    }
    bring_back(&old, out, Path::new(""), &theirs)?;
    if old.exists() {
        fs::remove_dir_all(&old).with_context(|| format!("removing `{}`", old.display()))?;
    }
    Ok(())
}

/// Moves what stays from the old folder to the new one: whole folders, with their permissions, where nothing else is in
/// them.
fn bring_back(old: &Path, new: &Path, below: &Path, theirs: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let inside: Vec<&PathBuf> = theirs.iter().filter(|path| path.starts_with(below)).collect();
    let mut parts: Vec<PathBuf> = Vec::new();
    for path in inside {
        let depth = below.components().count() + 1;
        let part: PathBuf = path.components().take(depth).collect();
        if parts.last() != Some(&part) {
            parts.push(part);
        }
    }
    for part in parts {
        let (from, to) = (old.join(&part), new.join(&part));
        let context = || format!("moving `{}` back to `{}`", from.display(), to.display());
        let alone = theirs.contains(&part) || files_below(&from)?.iter().all(|path| theirs.contains(&part.join(path)));
        if alone && to.symlink_metadata().is_err() {
            fs::rename(&from, &to).with_context(context)?;
            continue;
        }
        if to.symlink_metadata().is_err() {
            fs::create_dir(&to).with_context(context)?;
            fs::set_permissions(&to, from.metadata().with_context(context)?.permissions()).with_context(context)?;
        }
        bring_back(old, new, &part, theirs)?;
    }
    Ok(())
}

/// Whether a file is a report that an earlier compilation has left, alone.
fn is_report(out: &Path, path: &Path) -> bool {
    let text = || file::read(&out.join(path), MOST_REPORT_BYTES).and_then(file::into_text).unwrap_or_default();
    let is_link = out.join(path).is_symlink();
    match path.to_str() {
        Some("report.json") if !is_link => serde_json::from_str::<serde_json::Value>(&text())
            .is_ok_and(|report| ["schema", "model", "plan"].iter().all(|key| report.get(key).is_some())),
        Some("report.html") if !is_link => {
            let text = text();
            text.starts_with("<!doctype html>") && text.contains(" - Partita</title>")
        }
        _ => false,
    }
}

/// Lists built programs, so that they make way for others.
pub fn add_programs(out: &Path, programs: &[&Path]) -> anyhow::Result<()> {
    let Some(mut manifest) = Manifest::read(out)? else { return Ok(()) };
    manifest.digests.retain(|path, _| !is_program(path) || out.join(path).exists());
    for program in programs {
        let path = program.strip_prefix(out).with_context(|| format!("`{}` is elsewhere", program.display()))?;
        let path = path.to_str().context("a program's name is no text")?;
        manifest.digests.insert(path.to_string(), digest_of(program)?);
    }
    manifest.write(out)
}

fn is_program(path: &str) -> bool {
    [PROGRAMS, SYMBOLS].iter().any(|folder| path.split('/').next() == Some(folder))
}

impl Manifest {
    /// Of all files in a folder.
    fn of(folder: &Path) -> anyhow::Result<Manifest> {
        let mut digests = BTreeMap::new();
        for path in files_below(folder)? {
            let digest = digest_of(&folder.join(&path))?;
            let path = path.into_os_string().into_string().ok().context("an emitted file's name is no text")?;
            if !UNLISTED.contains(&path.as_str()) {
                digests.insert(path, digest);
            }
        }
        Ok(Manifest { digests })
    }

    fn read(folder: &Path) -> anyhow::Result<Option<Manifest>> {
        let path = folder.join(MANIFEST);
        if !path.exists() {
            return Ok(None);
        }
        let text = file::read(&path, file::MAX_PLAN_BYTES).and_then(file::into_text);
        let text = text.map_err(|problem| anyhow!("`{}` {problem}", path.display()))?;
        let entries =
            text.lines().map(|line| line.split_once("  ").map(|(digest, path)| (path.to_string(), digest.to_string())));
        let digests = entries.collect::<Option<BTreeMap<_, _>>>();
        let digests = digests.with_context(|| {
            format!("`{}` is damaged; remove the folder, or give another one with --out", path.display())
        })?;
        Ok(Some(Manifest { digests }))
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let text: String = self.digests.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect();
        super::put(folder, MANIFEST, text.as_bytes())
    }

    /// What programs are built from.
    fn sources(&self) -> Vec<(&String, &String)> {
        let built_from = |path: &str| {
            ["Cargo.toml", "Cargo.lock", "devices", "runtime-rt"]
                .iter()
                .any(|part| path.split('/').next() == Some(part))
        };
        self.digests.iter().filter(|(path, _)| built_from(path)).collect()
    }

    fn programs(&self) -> impl Iterator<Item = (String, String)> {
        let programs = self.digests.iter().filter(|(path, _)| is_program(path));
        programs.map(|(path, digest)| (path.clone(), digest.clone()))
    }
}

/// Paths of all files and empty folders in a folder, relative to it and in order; links are not followed.
fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let at = folder.join(&below);
        let context = || format!("reading `{}`", at.display());
        let entries = fs::read_dir(&at).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).with_context(context)?;
        if entries.is_empty() && below != Path::new("") {
            found.push(below.clone());
        }
        for entry in entries {
            let path = below.join(entry.file_name());
            if entry.file_type().with_context(context)?.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn digest_of(path: &Path) -> anyhow::Result<String> {
    // What stands in the place of an emitted file may be anything.
    let bytes = file::read(path, MOST_BYTES).map_err(|problem| anyhow!("`{}` {problem}", path.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Writes a bundle of these files.
    fn emit(out: &Path, files: &[(&str, &str)]) -> anyhow::Result<()> {
        check(out)?;
        let staging = TemporaryFolder::below(out.parent().expect("a parent"), ".partita-")?;
        for (path, text) in files.iter().chain(&[("plan.pb", "plan")]) {
            super::super::put(&staging, path, text.as_bytes())?;
        }
        replace(staging, out)
    }

    fn put(out: &Path, path: &str, text: &str) {
        super::super::put(out, path, text.as_bytes()).expect("written");
    }

    fn read(out: &Path, path: &str) -> Option<String> {
        fs::read_to_string(out.join(path)).ok()
    }

    const MAIN: &str = "devices/cam/src/main.rs";

    #[test]
    fn what_the_user_put_there_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        emit(&out, &[(MAIN, "1"), ("devices/old/Cargo.toml", "1")]).expect("written");
        put(&out, "notes.txt", "mine");
        put(&out, "identity/a.key", "mine");
        put(&out, "devices/old/notes.txt", "mine");
        put(&out, "devices/cam/tests/more.rs", "mine");
        put(&out, "bin/mine", "mine");
        fs::create_dir_all(out.join("empty/folder")).expect("a folder");
        std::os::unix::fs::symlink("nowhere", out.join("link")).expect("a link");
        fs::set_permissions(out.join("identity"), PermissionsExt::from_mode(0o700)).expect("private");
        put(&out, "report.json", "{}");
        emit(&out, &[(MAIN, "2")]).expect("written again");
        for path in ["notes.txt", "identity/a.key", "devices/old/notes.txt", "devices/cam/tests/more.rs", "bin/mine"] {
            assert_eq!(read(&out, path).as_deref(), Some("mine"), "{path}");
        }
        assert_eq!(fs::metadata(out.join("identity")).expect("it is there").permissions().mode() & 0o777, 0o700);
        assert!(out.join("empty/folder").is_dir() && out.join("link").is_symlink());
        assert_eq!(read(&out, MAIN).as_deref(), Some("2"));
        assert_eq!(read(&out, "devices/old/Cargo.toml"), None, "a device that is no more is gone");
        assert_eq!(read(&out, "report.json"), None, "the old report is gone");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside");
    }

    #[test]
    fn changed_files_are_named_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        emit(&out, &[(MAIN, "1"), ("runtime-rt/src/lib.rs", "1")]).expect("written");
        put(&out, MAIN, "changed");
        let error = emit(&out, &[(MAIN, "2")]).expect_err("it was changed").to_string();
        assert!(error.contains(MAIN) && !error.contains("lib.rs"), "{error}");
        assert_eq!(read(&out, MAIN).as_deref(), Some("changed"));
        // Away with it, or as it was, and it is written again.
        fs::remove_file(out.join(MAIN)).expect("removed");
        emit(&out, &[(MAIN, "2")]).expect("written");
        assert_eq!(read(&out, MAIN).as_deref(), Some("2"));
    }

    #[test]
    fn a_file_in_the_way_is_named_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        emit(&out, &[(MAIN, "1")]).expect("written");
        put(&out, "devices/hub/src/main.rs", "mine");
        let error = emit(&out, &[(MAIN, "2"), ("devices/hub/src/main.rs", "2")]).expect_err("in the way").to_string();
        assert!(error.contains("devices/hub/src/main.rs"), "{error}");
        assert_eq!(
            (read(&out, MAIN).as_deref(), read(&out, "devices/hub/src/main.rs").as_deref()),
            (Some("1"), Some("mine"))
        );
    }

    #[test]
    fn programs_stay_while_their_sources_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        emit(&out, &[(MAIN, "1")]).expect("written");
        put(&out, "bin/cam", "program");
        add_programs(&out, &[&out.join("bin/cam")]).expect("listed");
        emit(&out, &[(MAIN, "1"), ("deploy/README.md", "new")]).expect("written");
        assert_eq!(read(&out, "bin/cam").as_deref(), Some("program"));
        emit(&out, &[(MAIN, "1")]).expect("written");
        assert_eq!(read(&out, "bin/cam").as_deref(), Some("program"), "it is still listed");
        emit(&out, &[(MAIN, "2")]).expect("written");
        assert_eq!(read(&out, "bin/cam"), None, "it would be another plan's");
    }

    #[test]
    fn folders_without_a_list_are_the_users() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        for path in ["plan.pb", "bin/tool", "deploy/notes.txt"] {
            put(&out, path, "mine");
        }
        let error = emit(&out, &[(MAIN, "2")]).expect_err("whose is it?").to_string();
        assert!(error.contains("bin/tool") && error.contains(MANIFEST), "{error}");
        assert_eq!(read(&out, "bin/tool").as_deref(), Some("mine"));
        // A report is ours if it looks like one.
        let out = folder.path().join("report");
        put(&out, "report.json", "{\"mine\": 1}");
        assert!(emit(&out, &[(MAIN, "2")]).expect_err("no report").to_string().contains("report.json"));
        put(&out, "report.json", "{\"schema\": 1, \"model\": {}, \"plan\": {}}");
        emit(&out, &[(MAIN, "2")]).expect("written");
    }

    #[test]
    fn what_stands_in_the_place_of_an_emitted_file_may_be_anything() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        emit(&out, &[(MAIN, "1")]).expect("written");
        fs::remove_file(out.join(MAIN)).expect("it was there");
        std::os::unix::fs::symlink("/dev/zero", out.join(MAIN)).expect("a link");
        let error = emit(&out, &[(MAIN, "2")]).expect_err("it was changed").to_string();
        assert!(error.contains(MAIN), "{error}");
        fs::remove_file(out.join(MANIFEST)).expect("it was there");
        std::os::unix::fs::symlink("/dev/zero", out.join(MANIFEST)).expect("a link");
        let error = emit(&out, &[(MAIN, "2")]).expect_err("it is no list").to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn other_folders_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        put(&out, "thesis.tex", "years of work");
        assert!(emit(&out, &[]).expect_err("no bundle").to_string().contains("not a bundle"));
        put(folder.path(), "file", "");
        assert!(emit(&folder.path().join("file"), &[]).expect_err("no folder").to_string().contains("no folder"));
        std::os::unix::fs::symlink(&out, folder.path().join("link")).expect("a link");
        assert!(emit(&folder.path().join("link"), &[]).expect_err("a link").to_string().contains("symbolic link"));
        let damaged = folder.path().join("damaged");
        put(&damaged, "plan.pb", "plan");
        put(&damaged, MANIFEST, "what?");
        assert!(emit(&damaged, &[]).expect_err("damaged").to_string().contains("damaged"));
    }
}
