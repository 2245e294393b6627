//! Mechanical rules of the code base, so that no reviewer has to look for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use partita_tests::modules::Modules;
use partita_tests::place;

/// No file is longer; a longer one is two things.
const MOST_LINES: usize = 700;

/// A longer one may be two things already, and says why it is one. Not counted are tests at its end.
const LONG: usize = 500;

/// Files that are long and one thing.
const ONE_THING: &[(&str, &str)] =
    &[("compiler/ir/src/space/operators.rs", "every operator as loops: one match, and the loops of each of its arms")];

/// Text files that people write, by extension.
const WRITTEN: &[&str] = &["rs", "py", "toml", "md", "j2", "proto", "pass", "txt", "sh", "ir"];

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|extension| extensions.iter().any(|other| extension == *other))
}

/// The repository's files, by extension; vectors and lock files are machine-made.
fn written(extensions: &'static [&'static str]) -> Vec<PathBuf> {
    place::files_below(&place::repository(), &|path| has_extension(path, extensions))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(place::repository()).unwrap_or(path).to_string_lossy().into_owned()
}

/// Fails with all complaints at once.
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_list_of_tests_names_every_file() {
    let list = read(&place::repository().join("tests/README.md"));
    let files = place::files_below(&place::repository().join("tests/tests"), &|path| has_extension(path, &["rs"]));
    let own = |path: &&PathBuf| path.parent().is_some_and(|folder| folder.ends_with("tests/tests"));
    let names = files.iter().filter(own).map(|path| relative(path).replacen("tests/", "", 1));
    none(
        names
            .filter(|name| !list.contains(name))
            .map(|name| format!("tests/README.md does not say what {name} proves"))
            .collect(),
    );
}

#[test]
fn every_source_file_says_what_it_is() {
    let without = |path: &PathBuf| !read(path).starts_with("//!");
    none(
        written(&["rs"])
            .iter()
            .filter(|path| without(path))
            .map(|path| format!("{}: no `//!` on top", relative(path)))
            .collect(),
    );
    let without = |path: &PathBuf| !read(path).starts_with("\"\"\"");
    none(
        written(&["py"])
            .iter()
            .filter(|path| without(path))
            .map(|path| format!("{}: no docstring on top", relative(path)))
            .collect(),
    );
}

#[test]
fn no_source_file_is_too_long() {
    let length = |path: PathBuf| (read(&path).lines().count(), relative(&path));
    let long = written(&["rs", "py", "j2"]).into_iter().map(length).filter(|(lines, _)| *lines > MOST_LINES);
    none(long.map(|(lines, path)| format!("{path}: {lines} lines, at most {MOST_LINES}")).collect());
}

#[test]
fn long_source_files_are_one_thing() {
    let without_tests = |path: &PathBuf| read(path).lines().take_while(|line| !line.starts_with("mod tests {")).count();
    let lengths = written(&["rs"]).into_iter().map(|path| (relative(&path), without_tests(&path)));
    let long: BTreeMap<String, usize> = lengths.filter(|(_, lines)| *lines > LONG).collect();
    let has_reason = |path: &String| ONE_THING.iter().any(|(one, _)| one == path);
    let unexplained = long.iter().filter(|(path, _)| !has_reason(path)).map(|(path, lines)| {
        format!("{path}: {lines} lines; take out what has a name of its own, or say in ONE_THING why it is one thing")
    });
    let short = ONE_THING.iter().filter(|(path, _)| !long.contains_key(*path));
    let short =
        short.map(|(path, _)| format!("{path}: not longer than {LONG} lines any more; take it out of ONE_THING"));
    none(unexplained.chain(short).collect());
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in pieces, so that this file does not complain about itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("#[ig", "nore"),
        concat!("allow(dead", "_code"),
        concat!("should", "_panic"),
        concat!("db", "g!("),
    ];
    none(lines_with(&written(&["rs", "py", "toml", "j2", "proto"]), &words));
}

#[test]
fn no_path_of_one_machine() {
    let words = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tm", "p/")];
    none(lines_with(&written(WRITTEN), &words));
}

/// Lines that hold one of the words: file, line number and word.
fn lines_with(paths: &[PathBuf], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths {
        for (index, line) in read(path).lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{}: `{word}`", relative(path), index + 1));
            }
        }
    }
    found
}

#[test]
fn names_say_what_a_file_is_about() {
    let vague = ["util", "utils", "helper", "helpers", "common", "misc", "manager", "base"];
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let named = written(&["rs", "py"]).into_iter().filter(|path| vague.contains(&stem(path).as_str()));
    none(named.map(|path| format!("{}: name it after what it does", relative(&path))).collect());
}

/// Each `unsafe` block gives its reason within the lines above it.
#[test]
fn every_unsafe_block_has_a_reason() {
    let mut found = Vec::new();
    for path in written(&["rs"]) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens = code.contains("unsafe {") || code.contains("unsafe impl");
            let reason = lines[index.saturating_sub(4)..=index].iter().any(|line| line.contains("SAFETY:"));
            let quoted = code.contains('"');
            if opens && !reason && !quoted {
                found.push(format!("{}:{}: unsafe without SAFETY", relative(&path), index + 1));
            }
        }
    }
    none(found);
}

/// A figure of a target without a source is a guess.
#[test]
fn every_target_names_its_sources() {
    let targets = place::files_below(&place::repository().join("targets"), &|path| has_extension(path, &["toml"]));
    let silent = targets.iter().filter(|path| !read(path).contains('#'));
    none(silent.map(|path| format!("{}: no comment says where its figures come from", relative(path))).collect());
}

/// cases.txt lists the conformance vectors, each with its model and arrays.
#[test]
fn conformance_table_and_vectors_agree() {
    let folder = place::repository().join("tests/conformance");
    let table = read(&folder.join("cases.txt"));
    let listed: BTreeSet<String> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(" | ").next())
        .map(str::to_string)
        .collect();
    let stems = |extension: &'static str| -> BTreeSet<String> {
        place::files_below(&folder.join("vectors"), &|path| has_extension(path, &[extension]))
            .iter()
            .map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(listed, stems("onnx"));
    assert_eq!(listed, stems("npz"));
}

/// The crates, from the lowest layer up; those of one line know nothing of each other.
const LAYERS: &[&[&str]] = &[
    &["partita-rt", "partita-train"],
    &["partita-ir"],
    &["partita-files", "partita-passes"],
    &["partita-config", "partita-onnx"],
    &["partita-kernel"],
    &["partita-plan"],
    &["partita-program"],
    &["partita-placement"],
    &["partita-learn"],
    &["partita"],
];

/// Cargo forbids cycles; this forbids to turn an arrow around, or to name a crate that has no place.
#[test]
fn crates_import_downwards() {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    let root = place::repository();
    let folders = ["runtime-rt", "compiler"].map(|folder| root.join(folder));
    for path in folders.iter().flat_map(|folder| place::files_below(folder, &|path| path.ends_with("Cargo.toml"))) {
        let text = read(&path);
        let name = text.lines().find_map(|line| line.strip_prefix("name = ")).expect("a package has a name");
        let name = name.trim_matches('"').to_string();
        let Some(own) = layer(&name) else {
            complaints.push(format!("{}: `{name}` is in no layer", relative(&path)));
            continue;
        };
        let dependencies = text.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key);
        for below in dependencies.filter(|key| key.starts_with("partita")) {
            if layer(below).is_none_or(|below| below >= own) {
                complaints.push(format!("{}: imports `{below}`, which does not lie below", relative(&path)));
            }
        }
        seen.insert(name);
    }
    none(complaints);
    assert_eq!(seen.len(), LAYERS.concat().len(), "of {LAYERS:?} there are only {seen:?}");
}

/// Modules of one crate that import each other can only be understood together; so many may.
const MOST_IN_A_CYCLE: usize = 3;

#[test]
fn modules_import_one_way() {
    let root = place::repository();
    let folders = ["runtime-rt", "compiler"].map(|folder| root.join(folder));
    let manifests = folders.iter().flat_map(|folder| place::files_below(folder, &|path| path.ends_with("Cargo.toml")));
    let sources = manifests.map(|manifest| manifest.with_file_name("src"));
    let (mut complaints, mut crates) = (Vec::new(), 0);
    for source in sources.filter(|source| source.is_dir()) {
        crates += 1;
        let cycles = Modules::read(&source).cycles();
        let long = cycles.into_iter().filter(|cycle| cycle.len() > MOST_IN_A_CYCLE);
        complaints.extend(long.map(|cycle| format!("{}: {}", relative(&source), cycle.join(", "))));
    }
    none(complaints);
    assert_eq!(crates, LAYERS.concat().len());
}

/// Where graphs are looked through for a pattern: an operator that it does not name is none that it is about.
const PATTERNS: &[&str] = &[
    "compiler/passes/",
    // Spellings that a file may have, and what is written beside its operator.
    "compiler/onnx/src/ops/quantized.rs",
    "compiler/onnx/src/write/",
    // Layers that samples teach something of.
    "compiler/learn/src/exits/existing_exits.rs",
    "compiler/learn/src/links/",
    "compiler/learn/src/quantize/",
    "compiler/learn/src/samples.rs",
    "compiler/learn/src/variants/",
    // Nodes that are computed together with others.
    "compiler/kernel/src/lower/fused.rs",
    "compiler/kernel/src/lower/gemm/plan.rs",
    "compiler/kernel/src/lower/tests",
    "compiler/program/src/program/lower/pooled.rs",
    // Convolutions that Winograd's algorithm may do; what shards of a concatenation join.
    "compiler/plan/src/partition/cost.rs",
    "compiler/plan/src/shard/rewrite.rs",
];

/// Everywhere else a match over operators names all of them, so that the Rust compiler asks for a new one.
#[test]
fn matches_over_operators_name_them_all() {
    let (mut found, mut seen) = (Vec::new(), 0);
    let mut unused: BTreeSet<&str> = PATTERNS.iter().copied().collect();
    for path in written(&["rs"]).into_iter().filter(|path| relative(path).starts_with("compiler/")) {
        let (text, name) = (read(&path), relative(&path));
        let pattern = PATTERNS.iter().find(|pattern| name.starts_with(**pattern));
        for (at, names_them_all) in matches_over_operators(&text) {
            seen += 1;
            match (names_them_all, pattern) {
                (true, _) => {}
                (false, Some(pattern)) => _ = unused.remove(pattern),
                (false, None) => found.push(format!("{name}:{at}: a wildcard in a match over operators")),
            }
        }
    }
    found.extend(unused.iter().map(|pattern| format!("{pattern} has no such pattern any more")));
    none(found);
    assert!(seen > 20, "only {seen} matches over operators were found");
}

/// Lines of matches over operators, also beside something else, and whether they name every operator.
fn matches_over_operators(text: &str) -> Vec<(usize, bool)> {
    let lines: Vec<&str> = text.lines().collect();
    let begins = lines.iter().enumerate().filter(|(_, line)| line.ends_with('{') && line.contains("match "));
    let of = |(at, line): (usize, &&str)| {
        let arms = arms(&lines[at + 1..], indentation(line));
        let heads: Vec<&str> = arms.iter().map(|arm| arm.split("=>").next().unwrap_or_default().trim()).collect();
        let is_over_operators = heads.iter().any(|head| names_an_operator(head));
        is_over_operators.then(|| (at + 1, !heads.iter().any(|head| takes_anything(head))))
    };
    begins.filter_map(of).collect()
}

/// `Op::Conv`, and not `BinaryOp::Add`.
fn names_an_operator(head: &str) -> bool {
    let mut parts = head.split("Op::");
    let mut before = parts.next().unwrap_or_default();
    parts.any(|after| {
        let is_whole = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        before = after;
        is_whole && after.starts_with(|c: char| c.is_ascii_uppercase())
    })
}

/// `_`, `other`, `(_, _)`.
fn takes_anything(head: &str) -> bool {
    let inner = head.strip_prefix('(').and_then(|head| head.strip_suffix(')')).unwrap_or(head);
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && !["true", "false"].contains(&part)
    };
    let is_plain = |part: &str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    !inner.is_empty() && inner.split(", ").all(|part| is_name(part) && is_plain(part))
}

#[test]
fn wildcards_in_matches_over_operators_are_seen() {
    let of = |arms: &str| matches_over_operators(&format!("match x {{\n{arms}}}\n")).first().map(|found| found.1);
    assert_eq!(of("    Op::Conv(_) => 1,\n    | Op::MatMul => 2,\n"), Some(true));
    for any in ["_", "op", "(_, _)"] {
        assert_eq!(of(&format!("    (Op::Conv(_), 1) => 1,\n    {any} => 2,\n")), Some(false), "{any}");
    }
    assert_eq!(of("    BinaryOp::Add => 1,\n    _ => 2,\n"), None);
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The beginnings of a match's arms, as rustfmt indents them: one step further in than the match.
fn arms<'a>(lines: &[&'a str], outer: usize) -> Vec<&'a str> {
    let inside = lines.iter().take_while(|line| line.trim().is_empty() || indentation(line) > outer);
    inside.filter(|line| indentation(line) == outer + 4).map(|line| line.trim_start()).collect()
}
