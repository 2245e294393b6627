//! Runs every test of the workspace in a process of its own, the longest first, so that no core waits for the last one;
//! says how long each took, and at the end which took longest and which needed the processor longest.
//!
//! Reads the messages of `cargo test --no-run --message-format=json` on standard input. Arguments are parts of names of
//! tests; none means all.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Read, Seek};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Tests that are listed at the end.
const SLOWEST: usize = 10;

/// More tests at a time than there are cores: many wait for devices most of their time.
const BESIDE_CORES: usize = 1;

/// Tests that take half a minute and more: first where no times are known, as in a fresh checkout.
const LONG: [&str; 9] = [
    "examples::application_embeds_its_model",
    "exits::answers_in_8_bits_come_from_exits_too",
    "every_promise_holds_under_faults",
    "exits::exits_on_three_processes_and_for_looser_limits",
    "exits::exits_of_a_stream_are_patient_on_devices_too",
    "emitted_kernels::rust_kernels_for_x86_64",
    "emitted_kernels::rust_kernels_for_neon_of_armv7",
    "variants::a_cluster_that_loses_a_device_goes_on_with_what_is_left",
    "sharding::every_family_on_five_unequal_processes_sends_what_was_planned",
];

/// Where the last run's times are kept, in the target folder; without it, order is as listed, behind [`LONG`].
const TIMES: &str = "test-times.txt";

/// A test executable.
struct Binary {
    /// Package and target, such as `partita-tests sharding`.
    name: String,
    executable: PathBuf,
    /// Folder of the package: where cargo runs its tests.
    folder: PathBuf,
}

/// One test.
struct Test<'a> {
    binary: &'a Binary,
    name: String,
}

struct Result<'a> {
    test: Test<'a>,
    time: Duration,
    /// Processor time of all its processes that have ended.
    computed: Duration,
    failed: bool,
}

/// How a test's process ended, and what it said.
struct Ended {
    status: ExitStatus,
    computed: Duration,
    said: Vec<u8>,
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let binaries = binaries();
    let mut tests: Vec<Test<'_>> = binaries.iter().flat_map(list).collect();
    tests.retain(|test| wanted.is_empty() || wanted.iter().any(|part| full_name(test).contains(part)));
    let kept_in = binaries.first().and_then(|binary| Some(binary.executable.parent()?.parent()?.join(TIMES)));
    let text = kept_in.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let known: BTreeMap<&str, f64> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(seconds, name)| Some((name, seconds.parse().ok()?)))
        .collect();
    // The next is taken from the end. What has never run may be long.
    let unknown = |name: &str| if LONG.iter().any(|long| name.ends_with(long)) { f64::INFINITY } else { f64::MAX };
    let expected = |test: &Test<'_>| {
        let name = full_name(test);
        known.get(name.as_str()).copied().unwrap_or_else(|| unknown(&name))
    };
    tests.sort_by(|a, b| expected(a).total_cmp(&expected(b)));
    let workers = std::thread::available_parallelism().map_or(1, usize::from) + BESIDE_CORES;
    println!("running {} tests of {} programs, {workers} at a time", tests.len(), binaries.len());
    let begin = Instant::now();
    let (waiting, results) = (Mutex::new(tests), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                // Not in the head of the loop, where the lock would be held while the test runs.
                let next = || lock(&waiting).pop();
                while let Some(test) = next() {
                    let begin = Instant::now();
                    let ended = run(&test);
                    let time = begin.elapsed();
                    let failed = !ended.as_ref().is_ok_and(|ended| ended.status.success());
                    let computed = ended.as_ref().map_or(Duration::ZERO, |ended| ended.computed);
                    // One lock for all that is said of a test keeps it together.
                    let mut results = lock(&results);
                    say(&test, (time, computed), failed, &ended);
                    results.push(Result { test, time, computed, failed });
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|result| std::cmp::Reverse(result.time));
    if let Some(path) = kept_in.filter(|_| wanted.is_empty()) {
        let line = |result: &Result<'_>| format!("{:.3} {}\n", result.time.as_secs_f64(), full_name(&result.test));
        // Only the order of the next run depends on it.
        let _ = std::fs::write(path, results.iter().map(line).collect::<String>());
    }
    summarize(&results, begin.elapsed())
}

/// Test executables, from cargo's messages.
fn binaries() -> Vec<Binary> {
    assert!(!std::io::stdin().is_terminal(), "pipe `cargo test --no-run --message-format=json` into this");
    let mut found = Vec::new();
    for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line) else {
            println!("{line}");
            continue;
        };
        let text = |value: &serde_json::Value| value.as_str().map(str::to_string);
        let is_test = message["profile"]["test"].as_bool() == Some(true);
        let (Some(executable), Some(manifest), true) =
            (text(&message["executable"]), text(&message["manifest_path"]), is_test)
        else {
            continue;
        };
        let folder = PathBuf::from(manifest).parent().map(PathBuf::from).unwrap_or_default();
        let package = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("{package} {}", text(&message["target"]["name"]).unwrap_or_default());
        found.push(Binary { name, executable: executable.into(), folder });
    }
    assert!(!found.is_empty(), "cargo has built no tests");
    found
}

/// The tests of an executable, in its order.
fn list(binary: &Binary) -> Vec<Test<'_>> {
    let output =
        Command::new(&binary.executable).current_dir(&binary.folder).args(["--list", "--format=terse"]).output();
    let output = output.unwrap_or_else(|error| panic!("starting {}: {error}", binary.executable.display()));
    assert!(output.status.success(), "{} does not list its tests", binary.executable.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(|name| Test { binary, name: name.to_string() }).collect()
}

fn run(test: &Test<'_>) -> std::io::Result<Ended> {
    let mut said = tempfile::tempfile()?;
    let mut command = Command::new(&test.binary.executable);
    // As cargo does it.
    command.current_dir(&test.binary.folder).env("CARGO_MANIFEST_DIR", &test.binary.folder);
    let mut process = command
        .args(["--exact", &test.name, "--test-threads=1", "--color=never"])
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .spawn()?;
    let computed = computed(&process)?;
    let status = process.wait()?;
    let mut bytes = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut bytes)?;
    Ok(Ended { status, computed, said: bytes })
}

/// Waits until a process has ended, and says what it and those that it has waited for have computed: only until somebody
/// waits for it does the system know.
fn computed(process: &Child) -> std::io::Result<Duration> {
    let id = Pid::from_child(process);
    while waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).is_err_and(|e| e == Errno::INTR) {}
    let line = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    // Behind the name, which may hold anything: fields 14 to 17 of proc(5) are ticks of the process and of its children.
    let fields = line.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn say(test: &Test<'_>, (time, computed): (Duration, Duration), failed: bool, ended: &std::io::Result<Ended>) {
    let word = if failed { "FAILED" } else { "ok" };
    let (seconds, processor) = (time.as_secs_f64(), computed.as_secs_f64());
    println!("test {} ... {word} ({seconds:.2} s, {processor:.2} s of processor time)", full_name(test));
    if !failed {
        return;
    }
    match ended {
        Err(error) => println!("could not be run: {error}"),
        Ok(ended) => {
            println!("{}", String::from_utf8_lossy(&ended.said));
            println!("ended with {}", ended.status);
        }
    }
}

fn summarize(results: &[Result<'_>], time: Duration) -> ExitCode {
    println!("\nslowest tests:");
    for result in results.iter().take(SLOWEST) {
        println!("{:8.2} s  {}", result.time.as_secs_f64(), full_name(&result.test));
    }
    let mut by_need: Vec<&Result<'_>> = results.iter().collect();
    by_need.sort_by_key(|result| std::cmp::Reverse(result.computed));
    println!("\ntests that need the processor longest:");
    for result in by_need.into_iter().take(SLOWEST) {
        println!("{:8.2} s  {}", result.computed.as_secs_f64(), full_name(&result.test));
    }
    let mut by_binary: BTreeMap<&str, f64> = BTreeMap::new();
    for result in results {
        *by_binary.entry(&result.test.binary.name).or_default() += result.computed.as_secs_f64();
    }
    let all: f64 = by_binary.values().sum();
    let mut by_binary: Vec<(&str, f64)> = by_binary.into_iter().collect();
    by_binary.sort_by(|a, b| b.1.total_cmp(&a.1));
    println!("\ntest programs that need the processor longest, of {all:.0} s in all:");
    for (name, seconds) in by_binary.into_iter().take(SLOWEST) {
        println!("{seconds:8.2} s  {name}");
    }
    let failed: Vec<&Result<'_>> = results.iter().filter(|result| result.failed).collect();
    if !failed.is_empty() {
        println!("\nfailures:");
        failed.iter().for_each(|result| println!("    {}", full_name(&result.test)));
    }
    let passed = results.len() - failed.len();
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        failed.len(),
        time.as_secs_f64()
    );
    // A run of nothing proves nothing.
    if failed.is_empty() && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn full_name(test: &Test<'_>) -> String {
    format!("{} {}", test.binary.name, test.name)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
