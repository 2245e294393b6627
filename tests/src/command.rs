//! The `compile` command, built from this checkout in the profile of the running test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::place;

/// The `compile` executable. Built on first use: cargo does not build another package's binary for a test.
pub fn compile_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // tests/run has built it for all of them.
        if let Some(binary) = std::env::var_os("PARTITA_COMPILE") {
            return binary.into();
        }
        // The test runs from `<target>/<profile>/deps/`.
        let test = std::env::current_exe().expect("a test knows its own path");
        let profile = test.parent().and_then(Path::parent).expect("tests lie in <target>/<profile>/deps").to_path_buf();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(place::repository()).args(["build", "--quiet", "--package", "partita", "--bin", "compile"]);
        if profile.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        cargo.arg("--target-dir").arg(profile.parent().expect("a profile lies in a target folder"));
        let output = cargo.output().expect("cargo runs");
        assert!(output.status.success(), "building `compile` failed:\n{}", String::from_utf8_lossy(&output.stderr));
        profile.join(format!("compile{}", std::env::consts::EXE_SUFFIX))
    })
}

/// A `compile` command with the repository as current folder.
pub fn compile() -> Command {
    let mut command = Command::new(compile_binary());
    command.current_dir(place::repository());
    command
}

/// Runs a command to its end; panics with all it said if its exit status is not 0.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Fails with advice if a program that the test needs is not installed.
pub fn require(program: &str) {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    assert!(found, "`{program}` is not installed: run tests/setup");
}
