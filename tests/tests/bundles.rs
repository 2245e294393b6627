//! The output folder: programs are the same bytes wherever they are built, cargo alone builds them too, and what the
//! user has put into the folder is safe.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use partita_tests::bundle::{ClusterText, symbols};
use partita_tests::command::{compile, succeed};
use partita_tests::place::{self, is_long};

/// A board and a microcontroller.
fn two_kinds() -> ClusterText {
    ClusterText::new("board", "board")
        .open()
        .device("board", "host", "")
        .device("chip", "cortex-m7", "")
        .link("board", "chip", "uart", "1 Mbit/s")
}

/// `compile` for digits into a folder.
fn digits(cluster: &ClusterText, folder: &Path, options: &[&str]) -> Command {
    let mut command = compile();
    command.arg(place::repository().join("examples/digits/model.onnx")).args(["--strategy", "pipeline", "--targets"]);
    command.arg(cluster.write(folder)).arg("--out").arg(folder.join("out")).args(options);
    command
}

fn program(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join("out/bin").join(name)).unwrap_or_else(|error| panic!("program of {name}: {error}"))
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn programs_do_not_depend_on_where_they_are_built() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let there = there.path().join("deeper/below");
    fs::create_dir_all(&there).expect("a folder");
    succeed(&mut digits(&two_kinds(), here.path(), &["--build", "--symbols"]));
    // Making what all bundles have in common again takes longest.
    succeed(&mut digits(&two_kinds(), &there, if is_long() { &["--build", "--no-build-cache"] } else { &["--build"] }));
    let home = std::env::home_dir().expect("a home folder");
    for name in ["board", "chip"] {
        let built = program(here.path(), name);
        assert!(built == program(&there, name), "{name} is another program in another folder");
        for place in [here.path(), &home, &place::repository(), &std::env::temp_dir()] {
            let place = place.to_str().expect("a path");
            // A home at the root would be in anything.
            assert!(place.len() < 4 || !holds(&built, place), "{name} holds {place}");
        }
        assert_eq!(symbols(&here.path().join("out/bin").join(name)), [], "{name} is not stripped");
        let whole = here.path().join("out/symbols").join(name);
        assert!(symbols(&whole).iter().any(|(symbol, _)| symbol.contains("MODEL")), "{name} has no symbols beside it");
        assert!(built.len() < fs::metadata(&whole).expect("it is there").len() as usize);
    }
    assert!(!there.join("out/symbols").exists(), "nobody asked for symbols");
}

#[test]
fn cargo_alone_builds_a_bundle() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(&mut digits(&two_kinds(), folder.path(), &[]));
    let out = folder.path().join("out");
    let cargo = |device: &str, arguments: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(out.join("devices").join(device)).args(arguments).arg("--locked");
        cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        // Optimising is what takes longest, and nothing that is asked here depends on it.
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        succeed(&mut cargo)
    };
    // The lock file is complete for both kinds of devices, and says the versions of this checkout.
    cargo("chip", &["metadata", "--format-version", "1"]);
    let versions = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let packages = text.split("\n\n").filter(|package| package.contains("\nchecksum = ")).map(|package| {
            let of =
                |key: &str| package.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_string();
            (of("name = "), of("version = "), of("checksum = "))
        });
        packages.collect::<Vec<_>>()
    };
    let own = versions(place::repository().join("Cargo.lock"));
    let bundled = versions(out.join("Cargo.lock"));
    for name in ["\"rustix\"", "\"libm\"", "\"crc\"", "\"embedded-io\"", "\"crc32fast\""] {
        let package = bundled.iter().find(|package| package.0 == name).unwrap_or_else(|| panic!("no {name}"));
        assert!(own.contains(package), "{package:?} is not the version that the compiler's tests use");
    }
    cargo("board", &["build", "--release", "--quiet"]);
    let built = out.join("target/release/partita-device-board");
    let output = Command::new(&built).arg("--help").output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(symbols(&built), [], "cargo strips it, too");
    // What cargo has built stays when the model is compiled again.
    succeed(&mut digits(&two_kinds(), folder.path(), &[]));
    assert!(built.exists());
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn compiling_again_keeps_what_is_the_users() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let cluster = ClusterText::single("host");
    succeed(&mut digits(&cluster, folder.path(), &[]));
    fs::write(out.join("notes.txt"), "mine").expect("written");
    fs::create_dir(out.join("identity")).expect("a folder");
    fs::write(out.join("identity/a.key"), "mine").expect("written");
    succeed(&mut digits(&cluster, folder.path(), &[]));
    for path in ["notes.txt", "identity/a.key"] {
        assert_eq!(fs::read_to_string(out.join(path)).expect("it is still there"), "mine", "{path}");
    }
    let main = out.join("devices/one/src/main.rs");
    let changed = fs::read_to_string(&main).expect("it is there") + "// a change\n";
    fs::write(&main, &changed).expect("written");
    let output = digits(&cluster, folder.path(), &[]).output().expect("the compiler starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("devices/one/src/main.rs"), "{}", said(&output));
    assert_eq!(fs::read_to_string(&main).expect("it is there"), changed);
    fs::remove_file(&main).expect("removed");
    succeed(&mut digits(&cluster, folder.path(), &[]));
    assert!(main.exists(), "it is written again");
}

/// What is in a folder, by its name.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    entries.map(|name| name.into_string().expect("a text")).collect()
}

#[test]
fn a_signal_while_one_bundle_takes_the_place_of_another_loses_nothing() {
    const FILES: usize = 4000;
    let folder = tempfile::tempdir().expect("a folder");
    let (cluster, out) = (ClusterText::single("host"), folder.path().join("out"));
    succeed(&mut digits(&cluster, folder.path(), &[]));
    // Beside emitted files, so that each is moved by itself, which takes long enough to be seen.
    let mine = out.join("devices/one/src");
    (0..FILES).for_each(|file| fs::write(mine.join(format!("mine-{file}")), "mine").expect("the folder is ours"));
    let mut before = names_in(folder.path());
    // It is over soon; who looks at a bad moment sees nothing, and looks again.
    let interrupted = (0..10).any(|_| {
        let mut compiler = digits(&cluster, folder.path(), &[]);
        let mut compiler = compiler.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the compiler starts");
        let moving = || names_in(folder.path()).iter().any(|name| name.ends_with(".old"));
        while !moving() && compiler.try_wait().expect("it is our child").is_none() {}
        let id = rustix::process::Pid::from_child(&compiler);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let status = compiler.wait().expect("it is our child");
        let signal = status.signal();
        assert!(status.success() || signal == Some(rustix::process::Signal::TERM.as_raw()), "{status}");
        signal.is_some()
    });
    assert!(interrupted, "it was never seen while it moved files");
    let mut after = names_in(folder.path());
    before.sort();
    after.sort();
    assert_eq!(after, before, "what is left beside the bundle");
    assert_eq!(names_in(&mine).iter().filter(|name| name.starts_with("mine-")).count(), FILES);
    assert!(out.join("plan.pb").exists() && mine.join("model.rs").exists());
}
