//! What `cargo package` makes of the compiler and of the runtime holds all that they need, licences among it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use partita_tests::command::{compile_binary, succeed};
use partita_tests::place;

/// Everything that is published.
const PACKAGES: [&str; 13] = [
    "partita",
    "partita-config",
    "partita-files",
    "partita-ir",
    "partita-kernel",
    "partita-learn",
    "partita-onnx",
    "partita-passes",
    "partita-placement",
    "partita-plan",
    "partita-program",
    "partita-rt",
    "partita-train",
];

/// Packs all and gives the folders of what was packed.
fn pack(folder: &Path) -> [PathBuf; 13] {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(place::repository()).arg("package");
    PACKAGES.iter().for_each(|name| _ = cargo.args(["--package", name]));
    // Whether it builds is what everything else here tests, with the same files.
    cargo.args(["--no-verify", "--allow-dirty", "--offline", "--quiet", "--target-dir"]).arg(folder);
    succeed(&mut cargo);
    let unpacked = |name: &str| {
        let archive = folder.join("package").join(format!("{name}-{}.crate", env!("CARGO_PKG_VERSION")));
        succeed(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(folder));
        folder.join(format!("{name}-{}", env!("CARGO_PKG_VERSION")))
    };
    PACKAGES.map(unpacked)
}

#[test]
fn packages_hold_what_they_need() {
    let folder = tempfile::tempdir().expect("a folder");
    let packages = pack(folder.path());
    for package in &packages {
        for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "Cargo.toml"] {
            let text = fs::read_to_string(package.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.len() > 100, "{}/{file} is hardly a file", package.display());
        }
        let manifest = fs::read_to_string(package.join("Cargo.toml")).expect("a manifest");
        for key in ["license = ", "repository = ", "keywords = ", "readme = ", "description = ", "rust-version = "] {
            assert!(manifest.contains(key), "{} has no {key}", package.display());
        }
        assert!(!manifest.contains("path = \"../"), "{} names a folder outside", package.display());
    }
    // What is embedded is in the package, byte for byte.
    let root = place::repository();
    let of = |name: &str| &packages[PACKAGES.iter().position(|other| *other == name).expect("it is one of them")];
    let embedded = [
        ("templates", of("partita-program"), "templates"),
        ("targets", of("partita-config"), "targets"),
        ("runtime-rt/src", of("partita"), "runtime-rt/src"),
    ];
    for (from, package, to) in embedded {
        let files = place::files_below(&root.join(from), &|_| true);
        assert!(files.len() > 3, "{from}");
        for path in files {
            let packed = package.join("assets").join(to).join(path.strip_prefix(root.join(from)).expect("below"));
            let bytes = fs::read(&packed).unwrap_or_else(|error| panic!("{}: {error}", packed.display()));
            assert!(bytes == fs::read(&path).expect("it is there"), "{}", packed.display());
        }
    }
}

#[test]
fn both_names_say_name_version_commit_and_date() {
    let folder = compile_binary().parent().expect("a folder").to_path_buf();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(place::repository()).args(["build", "--quiet", "--package", "partita", "--bin", "partita"]);
    if folder.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    // tests/run has built both.
    if std::env::var_os("PARTITA_COMPILE").is_none() {
        succeed(cargo.arg("--target-dir").arg(folder.parent().expect("a target folder")));
    }
    let version = |name: &str| {
        let output = succeed(Command::new(folder.join(name)).arg("--version"));
        String::from_utf8(output.stdout).expect("text")
    };
    let said = version("compile");
    assert_eq!(said, version("partita"));
    let mut git = Command::new("git");
    let git = git
        .current_dir(place::repository())
        .args(["-c", "core.abbrev=9", "show", "--no-patch", "--format=%h %cs", "HEAD"])
        .output();
    // An archive of the sources has no commit.
    let commit = git.ok().filter(|output| output.status.success()).map(|output| String::from_utf8(output.stdout));
    let commit = commit.map_or(String::new(), |commit| format!(" ({})", commit.expect("text").trim()));
    assert_eq!(said.trim(), format!("partita {}{commit}", env!("CARGO_PKG_VERSION")));
}
