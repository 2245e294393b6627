//! Options of what calibration samples teach.

use partita::driver::Options;

use super::{compiled, example, parsed};

/// Options of exits and variants are seen at work in `exits.rs`, `exit_outputs.rs` and `variants.rs`; here, that none
/// of them is overheard before any training begins.
pub fn studies_read_what_they_are_given() {
    let calibration = example("calibration.npz");
    let calibration = calibration.to_string_lossy();
    let refused = |words: &[&str]| {
        let words: Vec<&str> = words.iter().copied().chain(["--calibration", &calibration]).collect();
        compiled(&words).expect_err("it is refused").to_string()
    };
    for (words, part) in [
        (vec!["--exits", "auto", "--training", "no-such.npz"], "no-such.npz"),
        (vec!["--exits", "auto", "--calibration-groups", "nobody"], "no array `nobody`"),
        (vec!["--exits", "auto", "--holdout", "no-such.npz"], "no-such.npz"),
        (vec!["--variants", "auto", "--holdout", "no-such.npz"], "no-such.npz"),
        (vec!["--exit-outputs", "nothing"], "no output `nothing`"),
    ] {
        let said = refused(&words);
        assert!(said.contains(part), "{words:?}: {said}");
    }
    let few = tempfile::Builder::new().suffix(".npz").tempfile().expect("a temporary file");
    let samples = |count: usize| partita::graph::Value::f32([count, 3, 32, 32], vec![0.5; count * 3 * 32 * 32]);
    partita::data::write_npz(few.path(), &vec![("x".to_string(), samples(2))]).expect("it is ours");
    for study in [["--exits", "auto"], ["--variants", "auto"]] {
        let words = [study[0], study[1], "--calibration", &few.path().to_string_lossy()].map(String::from);
        let said = compiled(&words.iter().map(String::as_str).collect::<Vec<_>>()).expect_err("too few").to_string();
        assert!(said.contains("E0192"), "{study:?}: {said}");
    }
    let wanted = |words: &[&str]| {
        let base = ["--exits", "auto", "--calibration", "c.npz"].iter().chain(words).copied().collect::<Vec<_>>();
        format!("{:?}", Options::of(&parsed(&base)).exits)
    };
    for words in [
        vec!["--calibration-stream"],
        vec!["--exit-effort", "0.5"],
        vec!["--max-loss", "0.02"],
        vec!["--min-accuracy", "0.5"],
        vec!["--max-class-loss", "0.1"],
        vec!["--holdout", "0.9"],
    ] {
        assert_ne!(wanted(&words), wanted(&[]), "{words:?}");
    }
    // What they do is seen in `quantization.rs`.
    let whole = |words: &[&str]| {
        let base = ["--quantize", "int8", "--calibration", "c.npz"].iter().chain(words).copied().collect::<Vec<_>>();
        let Options { quantize, write_onnx, .. } = Options::of(&parsed(&base));
        format!("{quantize:?} {write_onnx:?}")
    };
    for words in [["--quantize-ranges", "min-max"], ["--write-onnx", "q.onnx"]] {
        assert_ne!(whole(&words), whole(&[]), "{words:?}");
    }
}
