//! `survive = 1`: any one device of a running cluster goes, while it computes or between inferences, and every input is answered
//! as it was before; what excludes that is refused, and who cannot be done without is named.

use std::path::Path;
use std::process::Command;

use partita::bundle;
use partita::bundle::cargo::{BuildOptions, BuiltDevice};
use partita::commands::summary;
use partita::data::noise;
use partita::driver::{self, Compiled, Options};
use partita::graph::{Value, eval};
use partita::partition::StrategyFamily;
use partita::run::local::{self, LocalOptions};
use partita_tests::command::compile;
use partita_tests::place;

/// The committed network for a cluster of this text.
fn compiled(folder: &Path, cluster: &str, family: StrategyFamily) -> Compiled {
    let path = folder.join("cluster.toml");
    std::fs::write(&path, cluster).expect("the folder is ours");
    let options = Options { family, ..Options::default() };
    let model = place::repository().join("examples/resnet/model.onnx");
    driver::compile(&model, &path, &options, &mut ()).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Slow boards, in the cost model, on a fast switch: all of them are worth their messages.
fn boards(count: usize, more: &str) -> String {
    format!(
        "[cluster]\nname = \"boards\"\ninput = \"d-0\"\noutput = \"d-0\"\n{more}\n[[device]]\nname = \"d\"\ntarget = \"host\"\n\
         count = {count}\ncpu = 0.002\n[[link]]\nbetween = [\"d\"]\ntransport = \"tcp\"\nbandwidth = \"1 Gbit/s\"\n\
         latency = \"0.02 ms\"\n"
    )
}

fn build(folder: &Path, compiled: &Compiled) -> Vec<BuiltDevice> {
    bundle::write_programs(folder, compiled).expect("the folder is writable");
    let programs = compiled.routed.placed.programs.iter();
    let devices: Vec<_> = programs.map(|program| &compiled.cluster.devices[program.device]).collect();
    bundle::cargo::build_devices(folder, &devices, BuildOptions::default()).expect("the crates build")
}

fn signal(process: u32, which: &str) {
    let done = Command::new("kill").args([which, &process.to_string()]).status().expect("there is a kill");
    assert!(done.success());
}

/// Whether no thread of a process goes on.
fn is_stopped(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("it is there");
    let state = |folder: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(folder.expect("it is there").path().join("stat")).expect("it says how it is")
    };
    threads.map(state).all(|state| state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

/// Asserts that an answer is the reference's, whichever route it came by.
fn assert_right(compiled: &Compiled, input: &Value, answer: &[u8]) {
    let expected = eval::evaluate(&compiled.graph, std::slice::from_ref(input)).expect("it can be evaluated");
    let expected = partita::data::to_f32(&expected[0].data).to_vec();
    let found = local::unpack(&compiled.graph, answer).expect("it has the size of an answer").swap_remove(0).1;
    let scale = expected.iter().fold(1e-3f32, |scale, x| scale.max(x.abs()));
    for (expected, found) in expected.iter().zip(partita::data::to_f32(&found.data).iter()) {
        assert!((expected - found).abs() <= 1e-4 * scale, "{found} is not {expected}");
    }
}

#[test]
fn whoever_is_lost_the_inference_under_way_is_answered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let compiled = compiled(folder.path(), &boards(3, "survive = 1"), StrategyFamily::Pipeline);
    let known = compiled.routed.survival.as_ref().expect("it was asked for");
    let lost: Vec<usize> = known.losses.iter().map(|loss| loss.device).collect();
    assert_eq!(lost, [1, 2], "everybody takes part");
    assert!(known.losses.iter().all(|loss| !loss.makes_do), "what a stage has of the weights is lost with it");
    let report = serde_json::to_value(summary::report(&compiled)).expect("it is data");
    partita_tests::schema::check_report(&report);
    assert_eq!(report["survival"]["single_points"][0]["device"], "d-0");
    assert!(report["survival"]["more_weights_bytes"].as_u64() > Some(0));

    let input = noise(compiled.graph.tensor_type(compiled.graph.inputs[0]), 3);
    let bytes = local::pack(&compiled.graph, &compiled.graph.inputs, std::slice::from_ref(&input)).expect("it fits");
    let built = build(&folder.path().join("out"), &compiled);
    let silence = std::time::Duration::from_secs(20);
    for victim in lost {
        let wanted = LocalOptions { silence: Some(silence), ..LocalOptions::default() };
        let mut cluster = local::start(&compiled, &built, wanted).expect("the cluster starts");
        // Until everybody has been met, others may do without.
        let begin = std::time::Instant::now();
        while {
            let before = cluster.infer(&bytes).expect("enough are there");
            assert_right(&compiled, &input, &before.output);
            before.route > 0
        } {
            assert!(begin.elapsed() < silence, "everybody is there");
        }
        // Its part of the next inference is never computed: it is stopped first, and gone when the others wait for it.
        let process = cluster.process_id(victim).expect("it runs");
        signal(process, "-STOP");
        // Until all of its threads have been told, it may answer.
        while !is_stopped(process) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let begin = std::time::Instant::now();
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_secs(2));
                signal(process, "-KILL");
            });
            cluster.infer(&bytes).expect("two devices can do it")
        });
        let (route, given_up) = (answer.route, answer.given_up);
        assert!(route > 0 && given_up > 0, "begun with everybody, answered on route {route} after {given_up} tries");
        assert_right(&compiled, &input, &answer.output);
        assert!(begin.elapsed() < silence / 2, "a closed connection is noticed at once");
        let after = cluster.infer(&bytes).expect("two devices go on");
        assert_eq!(after.route, answer.route);
        assert_right(&compiled, &input, &after.output);
    }
}

/// Where rows are split everybody has all weights of the layers that are, so others need few more.
#[test]
fn weights_that_are_there_are_made_do_with() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let more = |family: StrategyFamily| -> u64 {
        let compiled = compiled(folder.path(), &boards(3, "survive = 1"), family);
        let known = compiled.routed.survival.as_ref().expect("it was asked for");
        known.more_weights_bytes.iter().sum()
    };
    let (rows, channels) = (more(StrategyFamily::Spatial), more(StrategyFamily::Lop));
    assert!(rows < channels / 4, "{rows} B where rows are split, {channels} where channels are");
}

#[test]
fn who_cannot_be_done_without_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let line = "[cluster]\nname = \"line\"\ninput = \"a\"\noutput = \"c\"\nsurvive = 1\n[[device]]\nname = \"a\"\ntarget = \"host\"\n\
                [[device]]\nname = \"b\"\ntarget = \"host\"\n[[device]]\nname = \"c\"\ntarget = \"host\"\n\
                [[link]]\nbetween = [\"a\", \"b\"]\ntransport = \"tcp\"\nbandwidth = \"1 Gbit/s\"\n\
                [[link]]\nbetween = [\"b\", \"c\"]\ntransport = \"tcp\"\nbandwidth = \"1 Gbit/s\"\n";
    let compiled = compiled(folder.path(), line, StrategyFamily::Auto);
    let points =
        serde_json::to_value(summary::report(&compiled)).expect("it is data")["survival"]["single_points"].clone();
    let points: Vec<_> =
        points.as_array().expect("a list").iter().map(|point| (&point["device"], &point["why"])).collect();
    let words: Vec<String> = points.iter().map(|(device, why)| format!("{device} {why}")).collect();
    assert_eq!(words, ["\"a\" \"input\"", "\"b\" \"bridge\"", "\"c\" \"output\""]);
}

#[test]
fn what_excludes_it_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = place::repository().join("examples/resnet/model.onnx");
    let refused = |cluster: &str, arguments: &[&str], words: &str| {
        let path = folder.path().join("cluster.toml");
        std::fs::write(&path, cluster).expect("the folder is ours");
        let mut command = compile();
        command.arg(&model).arg("--targets").arg(&path).arg("--simulate").args(arguments);
        let output = command.arg("--out").arg(folder.path().join("out")).output().expect("compile starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("E0183") && said.contains(words), "{said}");
    };
    refused(&boards(3, "survive = 2"), &[], "`survive` is 2, expected 0 or 1");
    refused(&boards(3, "survive = 1"), &["--objective", "memory"], "--objective memory");
    refused(&boards(3, "survive = 1"), &["--link-error", "1e-2"], "--link-error");
    // As little memory as two devices can do with: the one that is left has no room for the rest.
    let with_ram =
        |kib: usize, more: &str| boards(2, more).replace("cpu = 0.002", &format!("cpu = 0.002\nram = \"{kib} KiB\""));
    let fits = |kib: &usize| {
        let path = folder.path().join("tight.toml");
        std::fs::write(&path, with_ram(*kib, "")).expect("the folder is ours");
        let options = Options { family: StrategyFamily::Lop, ..Options::default() };
        driver::compile(&model, &path, &options, &mut ()).is_ok()
    };
    let least = (1..60).map(|step| step * 40).find(fits).expect("some memory is enough");
    refused(&with_ram(least, "survive = 1"), &["--strategy", "lop"], "survive = 1");
}
