//! Every key of a cluster file and of a target file changes what is emitted or predicted, or is refused with the reason.

use std::collections::BTreeMap;
use std::path::Path;

use partita::diagnostic::Diagnostic;
use partita::driver::{self, Options};
use partita::{bundle, commands};
use partita_tests::place;

mod cluster;
mod target;

pub use target::LINUX_TARGET;

/// How a key is shown to do something.
enum Shown {
    /// With the first text in the place of the second, something in the bundle differs.
    Differs(&'static str, &'static str),
    /// With the first text in the place of the second, it is refused with this.
    Refused(&'static str, &'static str, &'static str),
    /// By a test of its own.
    Test(fn()),
}

use Shown::{Differs, Refused, Test};

/// Files of a bundle by their paths, or why there is none.
type Outcome = Result<BTreeMap<String, String>, String>;

/// Compiles for a cluster file with a target file beside it. `model` is a folder, or the name of an example.
fn outcome(cluster: &str, target_text: &str, model: &str) -> Outcome {
    outcome_with(cluster, target_text, model, &Options::default())
}

fn outcome_with(cluster: &str, target_text: &str, model: &str, options: &Options) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("target.toml"), target_text).expect("the folder is ours");
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, cluster).expect("the folder is ours");
    let model = place::repository().join("examples").join(model).join("model.onnx");
    let compiled = driver::compile(&model, &path, options, &mut ()).map_err(|failure| failure.to_string())?;
    let mut report = commands::summary::report(&compiled);
    report.compile.clear();
    report.plan.solve_ms = 0.0;
    let out = folder.path().join("out");
    bundle::write(&out, &compiled, &report).map_err(|error| format!("{error:#}"))?;
    // Keys are new ones each time.
    let listed = |path: &Path| !["runtime-rt", "identity"].iter().any(|name| path.iter().any(|part| part == *name));
    let files = place::files_below(&out, &listed);
    let hidden = compiled.routed.placed.programs.iter().map(|program| {
        let device = &compiled.cluster.devices[program.device].name;
        out.join("devices").join(device).join(".cargo/config.toml")
    });
    let read = |path: &Path| {
        let name = path.strip_prefix(&out).expect("it lies in the bundle").to_string_lossy().into_owned();
        (name, String::from_utf8_lossy(&std::fs::read(path).expect("it was written")).into_owned())
    };
    Ok(files.into_iter().chain(hidden).map(|path| read(&path)).collect())
}

/// Walks a table. Gives what one key's texts become.
fn walk(keys: &[(&str, &str, Shown)], text_of: impl Fn(&str) -> &'static str, with: impl Fn(&str, &str) -> Outcome) {
    let mut plain: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for (table, key, shown) in keys {
        println!("[{table}] {key}");
        let text = text_of(table);
        let changed = |from: &str, to: &str| {
            assert!(text.contains(from), "[{table}] {key}: the text has no {from:?}");
            with(table, &text.replacen(from, to, 1))
        };
        match shown {
            Differs(from, to) => {
                let before = plain.entry(text).or_insert_with(|| with(table, text).expect("the plain file is sound"));
                let after = changed(from, to).unwrap_or_else(|error| panic!("[{table}] {key}: {error}"));
                assert!(after != *before, "[{table}] {key} is accepted and ignored: {to:?} changes nothing");
            }
            Refused(from, to, part) => {
                let said = changed(from, to).err().unwrap_or_else(|| panic!("[{table}] {key}: {to:?} is accepted"));
                assert!(said.contains(part), "[{table}] {key}: {said}");
            }
            Test(test) => test(),
        }
    }
}

/// The keys that a table knows, from what serde says of one that it does not.
fn known_keys(refusal: &[Diagnostic]) -> Vec<String> {
    let text = refusal.iter().map(ToString::to_string).collect::<String>();
    let (_, list) = text.split_once("expected ").unwrap_or_else(|| panic!("no list of keys: {text}"));
    let list = list.lines().next().unwrap_or_default();
    list.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

fn check_lines(keys: &[(&str, &str, Shown)], table: &str, known: &[String]) {
    assert!(!known.is_empty(), "[{table}] has no keys");
    let lines: Vec<&str> = keys.iter().filter(|(other, ..)| *other == table).map(|(_, key, _)| *key).collect();
    for key in known {
        assert!(lines.contains(&key.as_str()), "[{table}] {key} has no line: say what shows that it does something");
    }
    for line in lines {
        assert!(known.iter().any(|key| key == line), "[{table}] {line} has a line and is no key");
    }
}

fn single(target: &str) -> String {
    format!("[cluster]\nname = \"t\"\ninput = \"a\"\noutput = \"a\"\n[[device]]\nname = \"a\"\ntarget = \"{target}\"\n")
}
