//! Sharded graphs compute what the original computes, whatever the strategies.

use std::collections::BTreeMap;

use super::tests_network::{Random, check, cluster, neighbours, network, on_linux};
use super::*;
use crate::partition::{
    Method, Objective, Overlap, Partition, PartitionOptions, RowStreaming, Strategy, StrategyFamily, solve,
    strategies_of,
};
use crate::schedule;
use partita_config::cluster_file;
use partita_ir::graph::eval::evaluate;
use partita_ir::graph::op::{Decide, ExitRule, PoolKind};
use partita_ir::graph::{Op, TensorType, Value};

/// What travels is rounded for everybody, so a network answers the same however it is split, and links send half the
/// bytes.
#[test]
fn what_is_encoded_is_the_same_for_all_who_read_it() {
    use crate::partition::encodings::{Encoding, Encodings, Steps, candidates};
    let mut random = Random(26);
    let (mut changed, mut halved) = (0, 0);
    // A step of which all multiples and their sums are exact, as those of halves here.
    let bytes = Encoding::Steps(Steps { step: 0.25, low: -128, high: 127 });
    for round in 0..40 {
        let graph = network(&mut random);
        // Numbers that `f16` has not, of which sums are exact.
        let whole = random.values(graph.shape(graph.inputs[0]));
        let elements = whole.as_f32().expect("numbers").iter().map(|x| x * (1.0 + 1.0 / 2048.0));
        let input = Value::f32(whole.shape.clone(), elements.collect());
        let cluster = cluster(2 + random.next(3), "");
        let choices = strategies_of(&graph, &cluster);
        let strategies = choices.into_iter().map(|(id, choices)| (id, choices[random.next(choices.len())].clone()));
        let partition = Partition::given(strategies.collect());
        let encoding = if round % 2 == 0 { Encoding::Half } else { bytes };
        let encodings: Encodings = candidates(&graph).into_iter().map(|tensor| (tensor, encoding)).collect();
        let Some(encoded) = encoded(&graph, &partition, &cluster, &encodings) else { continue };
        partita_ir::graph::verify::verify(&encoded.graph).expect("rounding leaves it sound");
        let expected = evaluate(&encoded.graph, std::slice::from_ref(&input)).expect("the graph is sound");
        let label = format!("round {round}");
        check(&encoded.graph, &encoded.partition, &cluster, &input, &expected, &label);
        let names = |graph: &Graph| graph.outputs.iter().map(|id| graph.tensor(*id).name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&encoded.graph), names(&graph));
        changed += usize::from(evaluate(&graph, &[input]).expect("the graph is sound") != expected);
        let sent = |graph: &Graph, partition: &Partition| {
            let sharded = sketch(graph, partition, &cluster).expect("it can be carried out");
            let transfers = sharded.events.iter().filter_map(|event| match event {
                Event::Exchange(transfers) => Some(transfers),
                _ => None,
            });
            transfers.flatten().map(|transfer| sharded.graph.stored_bytes(transfer.tensor)).sum::<usize>()
        };
        let (exact, fewer) = (sent(&graph, &partition), sent(&encoded.graph, &encoded.partition));
        assert!(fewer < exact, "{label}: {fewer} of {exact} bytes");
        halved += usize::from(2 * fewer == exact);
    }
    assert!(changed > 10 && halved > 0, "{changed} answers are others, {halved} send half");
}

/// Operators on other element types than f32.
const TYPES: &str = r#"graph "types" opset 17
input %0 "x": f32[1,8,6,5]
const %1 "one": f32[1] = [0.5]
const %2 "five": i32[1] = [-5]
const %3 "at": i32[3] = [4, -1, 0]
const %4 "more": u8[1,2,6,5] = random(3)
%5 "above": bool[1,8,6,5] = "above"(%0, %1) Binary(Greater,None)
%6 "kept": f32[1,8,6,5] = "kept"(%5, %0, %1) Where
%7 "whole": i32[1,8,6,5] = "whole"(%0) Cast(to:I32)
%8 "square": i32[1,8,6,5] = "square"(%7, %7) Binary(Add,None)
%9 "rest": i32[1,8,6,5] = "rest"(%8, %2) Binary(Mod,None)
%10 "sum": i32[1,1,6,5] = "sum"(%9) Reduce(kind:Sum,axes:[1],keep_dims:true)
%11 "mean": i32[1,8] = "mean"(%9) Reduce(kind:Mean,axes:[2,3],keep_dims:false)
%12 "joined": i32[1,9,6,5] = "joined"(%9, %10) Concat(axis:1)
%13 "picked": i32[1,9,6,3] = "picked"(%12, %3) Gather(axis:3)
%14 "turned": i32[1,6,9,3] = "turned"(%13) Transpose(permutation:[0,2,1,3])
%15 "wide": i32[1,7,9,5] = "wide"(%14) Pad(mode:Constant(-3.0),begin:[0,1,0,0],end:[0,0,0,2])
%16 "not": bool[1,8,6,5] = "not"(%5) Unary(Not)
%17 "less": bool[1,8,6,5] = "less"(%9, %7) Binary(Less,None)
%18 "both": bool[1,8,6,5] = "both"(%16, %17) Binary(And,None)
%19 "bytes": u8[1,8,6,5] = "bytes"(%18) Cast(to:U8)
%20 "ten": u8[1,10,6,5] = "ten"(%19, %4) Concat(axis:1)
%21 "cut": u8[1,4,6,5] = "cut"(%20) Slice(starts:[0,3,0,0],steps:[1,2,1,1],sizes:[1,4,6,5])
%22 "half": f16[1,8,6,5] = "half"(%6) Cast(to:F16)
output %6
output %11
output %15
output %18
output %21
output %22
"#;

#[test]
fn every_element_type_is_split_anywhere() {
    let graph = partita_ir::graph::text::parse(TYPES).expect("the text is a graph");
    let mut random = Random(77);
    let mut split = std::collections::BTreeSet::new();
    for round in 0..40 {
        let input = random.values(graph.shape(graph.inputs[0]));
        let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
        let cluster = cluster(2 + random.next(4), "");
        let mut strategies = BTreeMap::new();
        for (id, choices) in strategies_of(&graph, &cluster) {
            let choice = choices[random.next(choices.len())].clone();
            if choice.devices().len() > 1 && choice.method != Method::Replicated {
                split.insert(graph.node(id).name.clone());
            }
            strategies.insert(id, choice);
        }
        let partition = Partition::given(strategies);
        check(&graph, &partition, &cluster, &input, &expected, &format!("round {round}"));
    }
    for name in ["above", "kept", "whole", "rest", "not", "both", "bytes", "joined", "turned", "half"] {
        assert!(split.contains(name), "`{name}` was never split");
    }
}

/// Attention of three heads, without the softmax so that sums are exact, and two results of a split.
const HEADS: &str = r#"graph "heads" opset 17
input %0 "x": f32[1,5,12]
const %1 "wq": f32[12,12] = random(1)
const %2 "wk": f32[12,12] = random(2)
const %3 "wv": f32[12,12] = random(3)
const %4 "wo": f32[12,9] = random(4)
%5 "q": f32[1,5,12] = "q"(%0, %1) MatMul
%6 "k": f32[1,5,12] = "k"(%0, %2) MatMul
%7 "v": f32[1,5,12] = "v"(%0, %3) MatMul
%8 "q.heads": f32[1,5,3,4] = "q.heads"(%5) Reshape(shape:[1,5,3,4])
%9 "k.heads": f32[1,5,3,4] = "k.heads"(%6) Reshape(shape:[1,5,3,4])
%10 "v.heads": f32[1,5,3,4] = "v.heads"(%7) Reshape(shape:[1,5,3,4])
%11 "q.turned": f32[1,3,5,4] = "q.turned"(%8) Transpose(permutation:[0,2,1,3])
%12 "k.turned": f32[1,3,4,5] = "k.turned"(%9) Transpose(permutation:[0,2,3,1])
%13 "v.turned": f32[1,3,5,4] = "v.turned"(%10) Transpose(permutation:[0,2,1,3])
%14 "scores": f32[1,3,5,5] = "scores"(%11, %12) MatMul
%15 "sums": f32[1,3,5,4] = "sums"(%14, %13) MatMul
%16 "turned": f32[1,5,3,4] = "turned"(%15) Transpose(permutation:[0,2,1,3])
%17 "joined": f32[1,5,12] = "joined"(%16) Reshape(shape:[1,5,12])
%18 "y": f32[1,5,9] = "y"(%17, %4) MatMul
%19 "first": f32[1,5,2], %20 "second": f32[1,5,7] = "parts"(%18) Split(axis:2,sizes:[2,7])
%21 "all": f32[1,5,7] = "all"(%20) Unary(Neg)
output %19
output %21
"#;

fn heads(random: &mut Random) -> Graph {
    let mut graph = partita_ir::graph::text::parse(HEADS).expect("the text is a graph");
    let constants: Vec<TensorId> = graph.tensor_ids().filter(|id| graph.value(*id).is_some()).collect();
    for constant in constants {
        let value = random.values(graph.shape(constant));
        graph.make_constant(constant, std::sync::Arc::new(value));
    }
    graph
}

#[test]
fn heads_and_all_results_of_a_split_are_cut_together() {
    let mut random = Random(33);
    let graph = heads(&mut random);
    let mut split = std::collections::BTreeSet::new();
    for round in 0..60 {
        let input = random.values(graph.shape(graph.inputs[0]));
        let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
        let cluster = cluster(2 + random.next(3), "");
        let mut strategies = BTreeMap::new();
        for (id, choices) in strategies_of(&graph, &cluster) {
            let choice = choices[random.next(choices.len())].clone();
            if choice.devices().len() > 1 && choice.method != Method::Replicated {
                split.insert((graph.node(id).name.clone(), choice.method.name()));
            }
            strategies.insert(id, choice);
        }
        check(&graph, &Partition::given(strategies), &cluster, &input, &expected, &format!("round {round}"));
    }
    for (name, method) in [("q.heads", "lop"), ("joined", "lop"), ("scores", "lop"), ("parts", "tokens"), ("y", "lip")]
    {
        assert!(split.contains(&(name.to_string(), method)), "`{name}` was never cut as {method}: {split:?}");
    }
}

/// Everything from the projections to what is joined is listed with a cut between heads, and then nothing of it
/// travels.
#[test]
fn attention_cut_by_heads_gathers_nothing_in_between() {
    let graph = heads(&mut Random(34));
    let cluster = cluster(3, "");
    // Axis, and the range on the second of three devices.
    let cuts = [
        (["q", "k", "v", "joined"].as_slice(), 2, (4, 8)),
        (&["q.heads", "k.heads", "v.heads", "turned"], 2, (1, 2)),
        (&["q.turned", "k.turned", "v.turned", "scores", "sums"], 1, (1, 2)),
    ];
    let strategies = strategies_of(&graph, &cluster).into_iter().map(|(id, choices)| {
        let node = graph.node(id);
        let cut = cuts.iter().find(|(names, _, _)| names.contains(&node.name.as_str()));
        let whole = Region::whole(graph.shape(node.outputs[0]));
        let wanted = cut.and_then(|(_, axis, (begin, end))| whole.with(*axis, *begin, *end));
        let is_wanted = |strategy: &&Strategy| match wanted {
            Some(part) => strategy.outputs.0[1] == Some(part) && strategy.devices().len() == 3,
            None => strategy.method == Method::Whole,
        };
        let found = choices.iter().find(is_wanted).unwrap_or_else(|| panic!("`{}` is not cut so", node.name));
        (id, found.clone())
    });
    let sharded = apply(&graph, &Partition::given(strategies.collect()), &cluster).expect("it can be sharded");
    let mut travels = std::collections::BTreeSet::new();
    for event in &sharded.events {
        let Event::Exchange(transfers) = event else { continue };
        let names = transfers.iter().map(|transfer| sharded.graph.tensor(transfer.tensor).name.as_str());
        travels.extend(names.map(|name| name.split(['@', '[']).next().unwrap_or_default()));
    }
    // The operand there, what is joined to the last product, and the results, which are wanted elsewhere.
    assert_eq!(Vec::from_iter(travels), ["all", "first", "joined", "x"]);
}

#[test]
fn random_strategies_compute_the_same() {
    let mut methods: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in 1..60u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut graph = network(&mut random);
        if seed % 2 == 0 {
            graph = partita_passes::batch::batch(&graph, 3).expect("samples are apart");
        }
        let input = random.values(graph.shape(graph.inputs[0]));
        let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
        let devices = 1 + random.next(7);
        let cluster = cluster(devices, "");
        let options = strategies_of(&graph, &cluster);
        for round in 0..6 {
            let mut strategies = BTreeMap::new();
            for (id, choices) in &options {
                let choice = choices[random.next(choices.len())].clone();
                *methods.entry(choice.method.name()).or_default() += 1;
                strategies.insert(*id, choice);
            }
            check(
                &graph,
                &Partition::given(strategies),
                &cluster,
                &input,
                &expected,
                &format!("seed {seed}, round {round}"),
            );
        }
    }
    for method in ["whole", "replicated", "lop", "lip", "spatial", "batch"] {
        assert!(methods.get(method).is_some_and(|count| *count > 50), "{method} was hardly tried: {methods:?}");
    }
}

#[test]
fn random_bands_compute_the_same() {
    let (mut runs, mut longest) = (0, 0);
    for seed in 1..60u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let graph = network(&mut random);
        let input = random.values(graph.shape(graph.inputs[0]));
        let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
        let devices = 1 + random.next(7);
        let hub = ["", "topology = \"star\"\nhub = \"d-0\""][if devices > 2 { random.next(2) } else { 0 }];
        let cluster = cluster(devices, hub);
        let options = strategies_of(&graph, &cluster);
        for round in 0..6 {
            // Mostly cut by channels, as where memory is short; so that runs become long.
            let strategies = options.iter().map(|(id, choices)| {
                let uncut = |strategy: &&Strategy| !matches!(strategy.method, Method::Spatial);
                let uncut: Vec<&Strategy> = choices.iter().filter(uncut).collect();
                (*id, uncut[random.next(uncut.len())].clone())
            });
            let mut partition = Partition::given(strategies.collect());
            let mut run: Vec<NodeId> = Vec::new();
            for id in graph.topological_order().expect("the graph is acyclic") {
                let rows = row_streaming::rows(&graph, id, &partition);
                if rows.is_some() {
                    run.push(id);
                }
                if rows.is_none() || random.next(4) == 0 {
                    let nodes = std::mem::take(&mut run);
                    longest = longest.max(nodes.len());
                    runs += usize::from(!nodes.is_empty());
                    let count = 1 + random.next(6);
                    partition.row_streaming.extend((!nodes.is_empty()).then_some(RowStreaming { nodes, count }));
                }
            }
            check(&graph, &partition, &cluster, &input, &expected, &format!("seed {seed}, round {round}"));
        }
    }
    assert!(runs > 300 && longest > 4, "{runs} runs, the longest of {longest} nodes");
}

#[test]
fn every_family_and_objective_computes_the_same() {
    use Objective::{Energy, Latency, Memory, Throughput, Traffic};
    use StrategyFamily::{Auto, Ftp, Fused, Lip, Lop, Pipeline, Spatial, Whole};
    for seed in 1..5u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let graph = network(&mut random);
        let input = random.values(graph.shape(graph.inputs[0]));
        let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
        let clusters = [(2, ""), (5, ""), (7, "topology = \"bus\""), (4, "topology = \"star\"\nhub = \"d-1\"")];
        // Every second one for each network; all with PARTITA_LONG=1.
        let tried = |at: usize| std::env::var_os("PARTITA_LONG").is_some() || (at + seed as usize).is_multiple_of(2);
        for (_, (devices, extra)) in clusters.into_iter().enumerate().filter(|(at, _)| tried(*at)) {
            let cluster = cluster(devices, extra);
            for family in [Auto, Whole, Pipeline, Lop, Lip, Fused, Ftp, Spatial] {
                for objective in [Latency, Throughput, Traffic, Memory, Energy] {
                    let label = format!("seed {seed}, {devices} devices {extra}, {family:?} for {objective:?}");
                    let options = PartitionOptions::new(objective, family);
                    match solve(&graph, &cluster, &options) {
                        Ok(partition) => check(&graph, &partition, &cluster, &input, &expected, &label),
                        // A star has no direct links for a pipeline between its points.
                        Err(error) => assert!(extra.contains("star"), "{label}: {error}"),
                    }
                }
            }
        }
    }
}

/// Adds a head behind the first node that makes four dimensions.
fn with_exit(graph: &mut Graph) {
    let behind = graph.topological_order().expect("the graph is acyclic")[0];
    let tensor = graph.node(behind).outputs[0];
    let channels = graph.shape(tensor)[1];
    let pooled = graph.add_tensor("pooled", TensorType::f32([1, channels, 1, 1]));
    graph.add_node("pool", Op::GlobalPool(PoolKind::Average), vec![tensor], vec![pooled]);
    let flat = graph.add_tensor("flat", TensorType::f32([1, channels]));
    graph.add_node("flatten", Op::Reshape { shape: vec![1, channels] }, vec![pooled], vec![flat]);
    let verdict = graph.add_tensor("verdict", TensorType::f32([2]));
    let decide = Decide {
        exit: 0,
        rule: ExitRule::Probability,
        logits: true,
        temperature: 1.0,
        threshold: 0.9,
        share: 0.5,
        patience: None,
    };
    graph.add_node("decide", Op::Decide(decide), vec![flat], vec![verdict]);
}

#[test]
fn an_exit_ends_the_inference_everywhere() {
    use StrategyFamily::{Auto, Ftp, Fused, Lip, Lop, Pipeline, Spatial};
    for seed in 1..4u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut graph = network(&mut random);
        with_exit(&mut graph);
        for (devices, extra) in [(1, ""), (3, ""), (5, "topology = \"star\"\nhub = \"d-1\"")] {
            let cluster = cluster(devices, extra);
            for family in [Auto, Pipeline, Lop, Lip, Fused, Ftp, Spatial] {
                let label = format!("seed {seed}, {devices} devices {extra}, {family:?}");
                let options = PartitionOptions::new(Objective::Latency, family);
                let Ok(partition) = solve(&graph, &cluster, &options) else {
                    assert!(extra.contains("star"), "{label}: no partition");
                    continue;
                };
                let partition = Partition { overlap: (seed > 1).then(Overlap::default), ..partition };
                let cluster = if seed > 1 { on_linux(&cluster) } else { cluster.clone() };
                let sharded = apply(&graph, &partition, &cluster).unwrap_or_else(|error| panic!("{label}: {error}"));
                let schedules = schedule::build(&sharded, &cluster).expect("few messages");
                schedule::check::check(&sharded.graph, &schedules, &cluster)
                    .unwrap_or_else(|error| panic!("{label}: {error}"));
                // A device that would not be told is found out.
                let told = |action: &schedule::Action| !matches!(action, schedule::Action::Leave { .. });
                let silent = schedules.iter().rposition(|schedule| {
                    schedule.device != cluster.output && schedule.actions.iter().any(|action| !told(action))
                });
                if let Some(silent) = silent {
                    let mut broken = schedules.clone();
                    broken[silent].actions.retain(told);
                    let found = schedule::check::check(&sharded.graph, &broken, &cluster);
                    assert!(found.is_err(), "{label}: a device goes on alone");
                }
            }
        }
    }
}

#[test]
fn hundreds_of_devices_compute_the_same() {
    let mut random = Random(7);
    let graph = network(&mut random);
    let input = random.values(graph.shape(graph.inputs[0]));
    let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
    for (devices, extra) in [(150, ""), (300, "topology = \"star\"\nhub = \"d-7\"")] {
        let cluster = cluster(devices, extra);
        for family in [StrategyFamily::Auto, StrategyFamily::Lop, StrategyFamily::Spatial] {
            let label = format!("{devices} devices {extra}, {family:?}");
            let options = PartitionOptions::new(Objective::Latency, family);
            let partition = solve(&graph, &cluster, &options).unwrap_or_else(|error| panic!("{label}: {error}"));
            assert!(partition.strategies.values().all(|strategy| strategy.outputs.0.len() == devices), "{label}");
            check(&graph, &partition, &cluster, &input, &expected, &label);
        }
    }
}

#[test]
fn patches_compute_the_same() {
    let mut patched = 0;
    for seed in 1..40u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let graph = network(&mut random);
        let input = random.values(graph.shape(graph.inputs[0]));
        let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
        let cluster = cluster(1 + random.next(3), "");
        let options = PartitionOptions::new(Objective::Latency, StrategyFamily::Auto);
        let partition = solve(&graph, &cluster, &options).expect("there is room");
        let mut sharded = apply(&graph, &partition, &cluster).expect("the partition is sound");
        for _ in 0..3 {
            let schedules = schedule::build(&sharded, &cluster).expect("few messages");
            let schedule = &schedules[random.next(schedules.len())];
            let whole = patches::whole_bytes(&sharded, schedule);
            let Some(patch) = patches::find(&sharded, schedule, random.next(whole as usize) as u64) else { continue };
            assert!(patch.peak_bytes < whole, "seed {seed}");
            patches::apply(&mut sharded, &patch).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            partita_ir::graph::verify::verify(&sharded.graph).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let schedules = schedule::build(&sharded, &cluster).expect("few messages");
            schedule::check::check(&sharded.graph, &schedules, &cluster)
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let found = evaluate(&sharded.graph, std::slice::from_ref(&input)).expect("the graph is sound");
            for (found, expected) in found.iter().zip(&expected) {
                assert!(found.data == expected.data, "seed {seed}: {patch:?}");
            }
            patched += 1;
        }
    }
    assert!(patched > 20, "only {patched} runs were computed in patches");
}

#[test]
fn rings_and_chains_compute_the_same() {
    use StrategyFamily::{Auto, Fused, Lop, Spatial};
    let mut hops = 0;
    for seed in 1..6u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let graph = network(&mut random);
        let input = random.values(graph.shape(graph.inputs[0]));
        let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
        for (devices, closed) in [(3, false), (4, true), (5, true), (5, false), (6, true)] {
            let cluster = neighbours(devices, closed);
            for family in [Auto, Lop, Fused, Spatial] {
                let label = format!("seed {seed}, {devices} devices, closed {closed}, {family:?}");
                // For least traffic channels are not kept in whole vectors, so that everybody has some.
                let options = PartitionOptions::new(Objective::Traffic, family);
                let partition = solve(&graph, &cluster, &options).unwrap_or_else(|error| panic!("{label}: {error}"));
                hops += partition.relays.values().filter(|relays| relays.len() > 1).count();
                check(&graph, &partition, &cluster, &input, &expected, &label);
            }
        }
    }
    assert!(hops > 50, "only {hops} operands went over several hops");
}

#[test]
fn a_cluster_in_two_parts_is_named_as_the_fault() {
    let text = "[cluster]\nname = \"t\"\ninput = \"d-0\"\noutput = \"d-2\"\n[[device]]\nname = \"d\"\ntarget = \"cortex-m7\"\ncount = 3\n\
                [[link]]\nbetween = [\"d-0\", \"d-1\"]\ntransport = \"uart\"\nbandwidth = \"10 Mbit/s\"\n";
    let cluster = cluster_file::parse(text, "cluster.toml", std::path::Path::new(".")).expect("the file is sound");
    let graph = network(&mut Random(5));
    for family in [StrategyFamily::Auto, StrategyFamily::Pipeline, StrategyFamily::Lop] {
        let refused = solve(&graph, &cluster, &PartitionOptions::new(Objective::Latency, family));
        let message = refused.expect_err("no links lead there").to_string();
        assert!(message.contains("E0171") && message.contains("`d-2`"), "{message}");
    }
}

#[test]
fn a_constant_with_rows_of_its_own_is_not_cut_into_patches() {
    let text = r#"graph "case" opset 17
input %0 "x": f32[1,3,24,24]
const %1 "w": f32[8,3,3,3] = random(1)
const %2 "b": f32[8] = random(2)
const %3 "map": f32[1,8,24,24] = random(3)
const %4 "v": f32[8,8,3,3] = random(4)
%5 "c": f32[1,8,24,24] = "first"(%0, %1, %2) Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:None))
%6 "s": f32[1,8,24,24] = "add"(%5, %3) Binary(Add,None)
%7 "d": f32[1,8,24,24] = "second"(%6, %4, %2) Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:None))
%8 "y": f32[1,8,12,12] = "third"(%7, %4, %2) Conv((window:(kernel:[3,3],stride:[2,2],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:None))
output %8
"#;
    let graph = partita_ir::graph::text::parse(text).expect("the text is a graph");
    let cluster = cluster(1, "");
    let options = PartitionOptions::new(Objective::Latency, StrategyFamily::Whole);
    let partition = solve(&graph, &cluster, &options).expect("there is room");
    let mut sharded = apply(&graph, &partition, &cluster).expect("the partition is sound");
    let schedules = schedule::build(&sharded, &cluster).expect("no messages");
    let patch = patches::find(&sharded, &schedules[0], 0).expect("the last two convolutions can be cut");
    let names: Vec<&str> = patch.nodes.iter().map(|node| sharded.graph.node(*node).name.as_str()).collect();
    assert!(names.iter().all(|name| !name.contains("add")), "{names:?}");
    patches::apply(&mut sharded, &patch).expect("what was found can be done");
}
