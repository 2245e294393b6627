//! Passes and stages as text: what goes in, what comes out, and, of passes, that both graphs compute the same.
//!
//! A file under `filetests/<pass or stage>/` holds cases separated by `====`; a case is an optional comment, the input (a
//! graph, or sections as `partita_tests::stage` describes them), a line `----`, and what is made of it. `BLESS=1` rewrites the
//! expectations.

use std::fs;
use std::path::Path;

use partita::data::{noise, to_f32};
use partita::graph::text::{Constants, parse, print};
use partita::graph::verify::verify;
use partita::graph::{Graph, eval};
use partita::passes::SIMPLIFY;
use partita_tests::{place, stage};

/// Largest difference between results before and after, relative to the largest element.
const TOLERANCE: f32 = 1e-5;

fn folder() -> std::path::PathBuf {
    place::repository().join("tests/filetests")
}

/// The text files of one folder.
fn files(name: &str) -> Vec<std::path::PathBuf> {
    place::files_below(&folder().join(name), &|path| path.extension().is_some_and(|extension| extension == "txt"))
}

/// Splits a file into cases: (input, expectation).
fn cases(text: &str) -> Vec<(&str, &str)> {
    text.split("\n====\n").map(|case| case.split_once("\n----").unwrap_or((case, ""))).collect()
}

fn compare(before: &Graph, after: &Graph) -> Result<(), String> {
    let inputs: Vec<_> =
        before.inputs.iter().enumerate().map(|(seed, input)| noise(before.tensor_type(*input), seed as u64)).collect();
    let expected = eval::evaluate(before, &inputs).map_err(|error| error.to_string())?;
    let found = eval::evaluate(after, &inputs).map_err(|error| error.to_string())?;
    if expected.len() != found.len() {
        return Err(format!("{} results after the pass, {} before", found.len(), expected.len()));
    }
    for (expected, found) in expected.iter().zip(&found) {
        if expected.tensor_type() != found.tensor_type() {
            return Err(format!("{} after the pass, {} before", found.tensor_type(), expected.tensor_type()));
        }
        let (expected, found) = (to_f32(&expected.data), to_f32(&found.data));
        let scale = expected.iter().fold(f32::MIN_POSITIVE, |scale, x| scale.max(x.abs()));
        for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let difference = (expected - found).abs();
            if expected != found && (difference.is_nan() || difference > TOLERANCE * scale) {
                return Err(format!("element {index} is {found} after the pass, {expected} before"));
            }
        }
    }
    Ok(())
}

fn is_pass(name: &str) -> bool {
    SIMPLIFY.iter().any(|pass| pass.name == name)
}

fn run_case(name: &str, input: &str) -> Result<String, String> {
    if is_pass(name) {
        let before = parse(input).map_err(|error| error.to_string())?;
        verify(&before).map_err(|error| format!("the input: {error}"))?;
        compare(&before, &stage::pass(name, &before)?)?;
    }
    stage::run(name, input)
}

fn check_file(name: &str, path: &Path, bless: bool) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut blessed = Vec::new();
    for (number, (input, expected)) in cases(text.trim_end()).into_iter().enumerate() {
        let found = run_case(name, input).map_err(|error| format!("case {number}: {error}"))?;
        if !bless && found.trim() != expected.trim() {
            return Err(format!(
                "case {number}: expected\n{expected}\nfound\n{found}\n(BLESS=1 rewrites expectations)"
            ));
        }
        blessed.push(format!("{}\n----\n{}", input.trim_end(), found.trim_end()));
    }
    if bless {
        fs::write(path, blessed.join("\n====\n") + "\n").map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[test]
fn passes_and_stages_make_the_expected_texts() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut failures = Vec::new();
    for name in stage::names() {
        let files = files(name);
        assert!(!files.is_empty(), "pass or stage `{name}` has no text test in tests/filetests/{name}");
        for path in files {
            if let Err(failure) = check_file(name, &path, bless) {
                failures.push(format!("{}: {failure}", path.display()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn text_reads_back() {
    let mut texts = 0;
    for path in stage::names().into_iter().filter(|name| is_pass(name)).flat_map(files) {
        let text = fs::read_to_string(&path).expect("the file is readable");
        for (input, _) in cases(text.trim_end()) {
            let graph = parse(input).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let printed = print(&graph, Constants::Full);
            let again = parse(&printed).unwrap_or_else(|error| panic!("{}: {error}\n{printed}", path.display()));
            assert_eq!(printed, print(&again, Constants::Full), "{}", path.display());
            texts += 1;
        }
    }
    assert!(texts > 20, "only {texts} graphs were read");
}

#[test]
fn broken_texts_are_refused_with_their_line() {
    for (text, line) in [
        ("graph \"g\" opset 17\ninput %0 \"x\" f32[1]\n", 2),
        ("graph \"g\" opset 17\nconst %0 \"c\": f32[4096,4096,2] = fill(0.0)\n", 2),
        ("graph \"g\" opset 17\n%0 \"y\": f32[1] = \"n\"(%0) Identity\n", 2),
        ("graph \"g\" opset 17\ninput %0 \"x\": f99[1]\n", 2),
        ("graph \"g\" opset 17\ninput %0 \"x\": f32[1]\noutput %1\n", 3),
        ("graph \"g\" opset 17\nconst %0 \"c\": f32[2] = [1.0]\n", 2),
        ("graph \"g\" opset 17\ninput %0 \"x\": f32[1]\n%1 \"y\": f32[1] = \"n\"(%0) Nothing\n", 3),
    ] {
        let error = parse(text).expect_err("the text is broken");
        assert_eq!(error.line, line, "{error}");
    }
}

#[test]
fn broken_graphs_are_refused() {
    for (text, expected) in [
        ("input %0 \"x\": f32[2]\n%1 \"y\": f32[3] = \"n\"(%0) Identity\noutput %1\n", "makes f32[3], expected f32[2]"),
        ("input %0 \"x\": f32[2]\n%1 \"y\": f32[2] = \"n\"(%0) MatMul\noutput %1\n", "inputs"),
        ("input %0 \"x\": f32[2,3]\n%1 \"y\": f32[3,2] = \"n\"(%0) Transpose(permutation:[1,1])\noutput %1\n", "perm"),
    ] {
        let graph = parse(text).expect("the text itself is well-formed");
        let error = verify(&graph).expect_err("the graph is broken").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
