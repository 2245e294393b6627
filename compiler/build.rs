//! Says which commit this is.

use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=assets");
    let version = std::env::var("CARGO_PKG_VERSION")?;
    let version = commit().map_or(version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo:rustc-env=PARTITA_VERSION={version}");
    Ok(())
}

/// The commit and its date, in a checkout; the commit, in a package that cargo has made of one.
fn commit() -> Option<String> {
    // A package may lie in somebody else's repository.
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_some() {
        // A commit changes what the current branch refers to; what refers to it may be in either file.
        let head = git(&["symbolic-ref", "--quiet", "HEAD"]);
        for name in ["HEAD", "packed-refs"].into_iter().map(str::to_string).chain(head) {
            let path = git(&["rev-parse", "--git-path", &name])?;
            if Path::new(&path).exists() {
                println!("cargo:rerun-if-changed={path}");
            }
        }
        return git(&["-c", "core.abbrev=9", "show", "--no-patch", "--format=%h %cs", "HEAD"]);
    }
    let packaged = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, after) = packaged.split_once("\"sha1\": \"")?;
    after.get(..9).filter(|commit| commit.chars().all(|digit| digit.is_ascii_hexdigit())).map(str::to_string)
}

/// What git says, if it is there and has something to say.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let said = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!said.is_empty()).then_some(said)
}
