//! Short runs of every fuzz target: always the same mutations of good inputs, through the functions that `tests/fuzz` calls.
//! `FUZZ_TIMES=20` makes twenty times as many, others than those.

use std::panic::catch_unwind;
use std::path::Path;

use partita::placement::plan_file::{self, Decided};
use partita_ir::graph::text::Constants;
use partita_plan::partition::text::Display as PartitionText;
use partita_plan::schedule::text::Display as ScheduleText;
use partita_plan::{partition, schedule, shard, simulate};
use partita_program::program;
use partita_rt::frame::{Header, Kind};
use partita_tests::fuzzing::{self, TARGETS};
use partita_tests::mutate::{Random, mutated};
use partita_tests::{peer, place, stage};

/// Good inputs of each target, and how many mutations of them are tried.
fn seeds(target: &str) -> (Vec<Vec<u8>>, usize) {
    let files = |folder: &str, extension: &str, most: u64| -> Vec<Vec<u8>> {
        let small = |path: &Path| std::fs::metadata(path).is_ok_and(|file| file.len() < most);
        let wanted = |path: &Path| path.extension().is_some_and(|found| found == extension) && small(path);
        let paths = place::files_below(&place::repository().join(folder), &wanted);
        paths.iter().map(|path| std::fs::read(path).expect("the file is readable")).collect()
    };
    match target {
        "importer" => (files("tests/conformance/vectors", "onnx", 1500), 4000),
        "graph" => (graphs(), 5000),
        "npz" => (files("tests/conformance/vectors", "npz", 3000), 4000),
        "cluster" => (vec![fuzzing::CLUSTER.as_bytes().to_vec()], 2000),
        "target" => (files("targets", "toml", 6000), 600),
        "frame" => (vec![Header::new(Kind::Output, 7, 1, 2, 3, b"payload").emit().to_vec()], 5000),
        "link" => (vec![peer::conversation()], 500),
        "differential" => ((0..64u8).map(|seed| vec![seed; 8]).collect(), 150),
        _ => (texts(target), 1500),
    }
}

/// Cases of passes, one by one.
fn graphs() -> Vec<Vec<u8>> {
    let folder = place::repository().join("tests/filetests");
    let files = place::files_below(&folder, &|path| path.extension().is_some_and(|extension| extension == "txt"));
    let texts: Vec<String> = files.iter().map(|path| std::fs::read_to_string(path).expect("it is readable")).collect();
    let cases =
        texts.iter().flat_map(|text| text.split("\n====\n")).map(|case| case.split("\n----").next().unwrap_or(case));
    cases.filter(|case| partita_ir::graph::text::parse(case).is_ok()).map(|case| case.as_bytes().to_vec()).collect()
}

/// Texts of the small graph, cut over both devices and whole.
fn texts(target: &str) -> Vec<Vec<u8>> {
    let (graph, cluster) = fuzzing::small();
    let choices = partition::strategies_of(graph, cluster);
    let mut found = Vec::new();
    for round in 0..6 {
        let mut random = Random::new(round);
        let strategies = choices.iter().map(|(id, choices)| (*id, choices[random.below(choices.len())].clone()));
        let partition = partition::Partition::given(strategies.collect());
        let sharded = shard::apply(graph, &partition, cluster).expect("it can be cut");
        let schedules = schedule::build(&sharded, cluster).expect("there are few messages");
        let programs = schedules.iter().map(|schedule| {
            let device = &cluster.devices[schedule.device];
            let made_for = (&device.target, &device.settings);
            program::lower::lower(&sharded.graph, schedule, made_for, Default::default()).expect("it lowers")
        });
        let programs: Vec<program::Program> = programs.collect();
        let kernels = programs.iter().flat_map(|program| &program.kernels).map(|kernel| kernel.to_string());
        let text = match target {
            "partition" => PartitionText { partition: &partition, graph, cluster }.to_string(),
            // Whole, since the text names tensors of the graph that is not cut.
            "schedule" => {
                let whole = |id| partition::Strategy::whole(0, 2, graph.shape(graph.node(id).outputs[0]));
                let whole = partition::Partition::given(graph.node_ids().map(|id| (id, whole(id))).collect());
                let whole = shard::apply(graph, &whole, cluster).expect("it can be cut");
                let schedules = schedule::build(&whole, cluster).expect("there are few messages");
                ScheduleText { schedules: &schedules, graph, cluster }.to_string()
            }
            "program" => programs.iter().map(|program| program::text::print(program, Constants::Full)).collect(),
            "kernel" => {
                found.extend(kernels.map(String::into_bytes));
                continue;
            }
            "plan" => {
                let prediction = simulate::simulate(&sharded, &schedules, cluster);
                let (partition, prediction, programs) = (&partition, &prediction, &programs[..]);
                let decided = Decided {
                    graph,
                    cluster,
                    partition,
                    prediction,
                    programs,
                    routes: &[],
                    conditions: &[],
                    encodings: &[],
                };
                found.push(plan_file::write(&decided));
                continue;
            }
            _ => panic!("there are no seeds for `{target}`"),
        };
        found.push(text.into_bytes());
    }
    found
}

#[test]
fn no_input_breaks_a_reader() {
    let mut failures = Vec::new();
    let times = std::env::var("FUZZ_TIMES").map_or(1, |times| times.parse().expect("FUZZ_TIMES is a number"));
    for (name, target) in TARGETS {
        let (seeds, count) = seeds(name);
        let count = count * times;
        assert!(!seeds.is_empty(), "`{name}` has no seeds");
        let begun = std::time::Instant::now();
        let mut random = Random::new(times as u64);
        let mut read = 0;
        let mutations = (0..count).map(|_| mutated(&seeds, &mut random));
        for (number, input) in seeds.iter().cloned().chain(mutations).enumerate() {
            match catch_unwind(|| target(&input)) {
                Ok(was_read) => {
                    // Otherwise nothing but refusals would be tried.
                    assert!(was_read || number >= seeds.len(), "{name}: seed {number} is refused");
                    read += usize::from(was_read && number >= seeds.len());
                }
                Err(_) => {
                    let shown: String = input.escape_ascii().to_string().chars().take(3000).collect();
                    failures.push(format!("{name}, input {number}: {shown}"));
                    break;
                }
            }
        }
        let time = begun.elapsed().as_secs_f64();
        println!("{name}: {} seeds, {count} mutations, {read} of them read, in {time:.2} s", seeds.len());
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Every target of `tests/fuzz` is one of those above, and the other way around.
#[test]
fn every_target_has_its_file() {
    let folder = place::repository().join("tests/fuzz");
    let files = place::files_below(&folder, &|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut found: Vec<String> =
        files.iter().map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned()).collect();
    let mut known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    found.sort_unstable();
    known.sort_unstable();
    assert_eq!(found, known);
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("the folder has a manifest");
    for name in known {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
    assert!(stage::names().len() > 15);
}
