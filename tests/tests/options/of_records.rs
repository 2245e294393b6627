//! Options by which a compilation follows what is known already: an earlier plan, measurements, a tuning record; and
//! how the last two are made.

use partita::driver::Compiled;
use partita::usage;

use super::{compiled, example, figures, keys};

pub fn an_earlier_plan_is_kept() {
    let whole = compiled(&["--strategy", "whole"]).expect("it compiles");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), &whole.plan_bytes).expect("it is ours");
    let again = compiled(&["--plan", &file.path().to_string_lossy()]).expect("the plan is of this model");
    assert_eq!(again.routed.placed.partition.strategies, whole.routed.placed.partition.strategies);
    assert_ne!(
        again.routed.placed.partition.strategies,
        compiled(&[]).expect("it compiles").routed.placed.partition.strategies
    );
}

pub fn measurements_are_used_and_named() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    let text = "[origin]\ndate = \"2026-01-02 03:04 UTC\"\nmodel = \"other.onnx\"\n\
                [[kind]]\ntarget = \"raspberry-pi-3\"\ncpu = 1.0\n[kind.family]\nconv = 3.0\n";
    std::fs::write(file.path(), text).expect("it is ours");
    let slower = compiled(&["--measured", &file.path().to_string_lossy()]).expect("it compiles");
    assert!(
        slower.routed.prediction.latency_ms > compiled(&[]).expect("it compiles").routed.prediction.latency_ms * 1.5
    );
    let said: Vec<String> = slower.learned.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("of 2026-01-02 03:04 UTC, made with other.onnx"), "{said:?}");
    assert_eq!(figures(&slower)["learned"][0]["origin"]["date"], "2026-01-02 03:04 UTC");
}

pub fn a_tuning_record_is_used_and_named() {
    use partita::config::tuned::{Choice, Tuned, TunedConvolution};
    let plain = compiled(&["--strategy", "whole"]).expect("it compiles");
    let alternatives = plain.routed.placed.programs[0].kernels.iter().filter_map(|kernel| kernel.alternative.clone());
    let other = |choice: &Choice| Choice { form: "direct".to_string(), vectors: choice.vectors % 4 + 1 };
    let convolution = alternatives.map(|(shape, choice)| TunedConvolution {
        target: "raspberry-pi-3".to_string(),
        threads: 1,
        shape,
        choice: other(&choice),
        microseconds: 1.0,
        estimated_best_microseconds: 2.0,
    });
    let record = Tuned { convolution: convolution.collect(), ..Tuned::default() };
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    std::fs::write(file.path(), toml::to_string(&record).expect("plain data")).expect("it is ours");
    let tuned = compiled(&["--strategy", "whole", "--tuned", &file.path().to_string_lossy()]).expect("it compiles");
    let summaries = |compiled: &Compiled| -> Vec<String> {
        compiled.routed.placed.programs[0].kernels.iter().map(|kernel| kernel.summary.clone()).collect()
    };
    assert_ne!(summaries(&tuned), summaries(&plain));
    assert!(tuned.learned[0].to_string().contains("tuning record"), "{:?}", tuned.learned);
}

pub fn emulators_are_not_measured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A board whose emulator nobody has: to insist on it goes no further than to look for it.
    let target = keys::LINUX_TARGET.replace("[\"qemu-aarch64\"]", "[\"qemu-of-nobody\"]");
    std::fs::write(folder.path().join("board.toml"), target).expect("the folder is ours");
    let cluster = partita_tests::bundle::ClusterText::single("./board.toml").write(folder.path());
    for mode in ["--measure", "--tune"] {
        let execute = |more: &[&str]| {
            let model = example("model.onnx");
            let words = ["compile".as_ref(), model.as_os_str(), "--targets".as_ref(), cluster.as_os_str()];
            let words =
                words.into_iter().chain(std::iter::once(mode.as_ref())).chain(more.iter().map(|word| (*word).as_ref()));
            let arguments = usage::parse(words.map(std::ffi::OsString::from)).expect("the words are sound");
            partita::commands::execute(&arguments).expect_err("nobody has it").to_string()
        };
        let refused = execute(&[]);
        assert!(refused.contains("E0174") && refused.contains("--launcher"), "{refused}");
        let insisted = execute(&["--measure-emulated"]);
        assert!(insisted.contains("needs `qemu-of-nobody`"), "{insisted}");
    }
}
