//! ONNX's own backend tests through import, simplification and reference kernels, and through emitted programs.
//!
//! They come with the Python package `onnx`, which `tests/setup` installs; where it is not, there is nothing to do. Every
//! test passes, or is listed with the reason in `conformance/backend_exceptions.txt`; one that passes may not be listed. What
//! the reference kernels pass, emitted programs do.

use std::collections::BTreeMap;

use partita::bundle::cargo::{BuildOptions, build_device};
use partita::config::Cluster;
use partita::config::cluster_file;
use partita::driver::{Compiled, Options};
use partita::graph::{Graph, TensorId};
use partita::run::local::{LocalOptions, pack, start, unpack};
use partita::{bundle, driver};
use partita_tests::backend::{Case, Form, Passed, Suite, compare, exceptions, suite};
use partita_tests::bundle::ClusterText;
use partita_tests::place::{further, is_long};

/// What tests say that are not as their list says.
fn complaint(case: &Case, result: Result<(), &String>, listed: &BTreeMap<String, String>) -> Option<String> {
    match (result, listed.get(&case.name)) {
        (Ok(()), Some(_)) => Some(format!("{}: passes, and must leave the list", case.name)),
        (Err(reason), None) => Some(format!("{}: {reason} ({})", case.name, case.operators)),
        _ => None,
    }
}

fn nobody_complains(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn onnx_backend_tests_pass_or_are_listed() {
    let Some(suite) = suite() else { return };
    assert!(suite.cases.len() > 1000, "only {} tests in the suite", suite.cases.len());
    let listed = exceptions();
    let mut complaints = Vec::new();
    let mut forms = Vec::new();
    for case in &suite.cases {
        let result = suite.pass(case);
        complaints.extend(complaint(case, result.as_ref().map(|_| ()), &listed));
        forms.extend(result.ok().map(|passed| passed.form));
    }
    let count = |form: Form| forms.iter().filter(|other| **other == form).count();
    let (as_they_are, constants, known) = (count(Form::AsItIs), count(Form::WithConstants), count(Form::Known));
    println!(
        "{} of {} pass: {as_they_are} as they are, {constants} with parameters made constants, {known} of constants",
        forms.len(),
        suite.cases.len()
    );
    nobody_complains(&complaints);
}

/// So many tests go into one program.
const BATCH: usize = 100;

/// With `PARTITA_LONG=1` all of them; else a part of them, the same each time.
const PART: usize = 24;

#[test]
fn onnx_backend_tests_pass_in_emitted_programs() {
    let Some(suite) = suite() else { return };
    for target in further(&["host"], &["raspberry-pi-4"]) {
        emitted(&suite, target);
    }
}

fn emitted(suite: &Suite, target: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = ClusterText::single(target).write(folder.path());
    let cluster = cluster_file::read(&text).expect("a sound cluster");
    let listed = BTreeMap::new();
    let chosen = suite.cases.iter().enumerate().filter(|(index, _)| is_long() || index % PART == 0);
    let mut results = Vec::new();
    let mut batch = Vec::new();
    for (_, case) in chosen {
        let Ok(of_reference) = suite.pass(case) else { continue };
        match compiled(of_reference.graph.clone(), &cluster) {
            Ok(_) => batch.push((case, of_reference)),
            Err(refused) => results.push((case, Err(refused))),
        }
        if batch.len() == BATCH {
            results.extend(run_together(&std::mem::take(&mut batch), &cluster));
        }
    }
    results.extend(run_together(&batch, &cluster));
    let passed = results.iter().filter(|(_, result)| result.is_ok()).count();
    println!("{target}: {passed} of {} that the reference kernels pass", results.len());
    let judge = |(case, result): &(&Case, Result<(), String>)| complaint(case, result.as_ref().copied(), &listed);
    nobody_complains(&results.iter().filter_map(judge).collect::<Vec<_>>());
}

fn compiled(graph: Graph, cluster: &Cluster) -> Result<Compiled, String> {
    driver::compile_graph("tests".to_string(), graph, cluster.clone(), &Options::default())
        .map_err(|failure| failure.to_string().lines().next().unwrap_or_default().to_string())
}

/// One program that computes all of them, and what each came to.
fn run_together<'a>(batch: &[(&'a Case, Passed)], cluster: &Cluster) -> Vec<(&'a Case, Result<(), String>)> {
    if batch.is_empty() {
        return Vec::new();
    }
    let mut whole = Graph::new("tests");
    batch.iter().enumerate().for_each(|(index, (_, passed))| append(&mut whole, &passed.graph, index));
    let given: Vec<_> = batch.iter().flat_map(|(_, passed)| passed.given.iter().cloned()).collect();
    let compiled = compiled(whole, cluster).expect("each of them compiles by itself");
    let folder = tempfile::tempdir().expect("a temporary folder");
    bundle::write_programs(folder.path(), &compiled).expect("the folder is writable");
    let built = build_device(folder.path(), &compiled.cluster.devices[0], BuildOptions::default());
    let built = [built.expect("the program builds")];
    let mut running = start(&compiled, &built, LocalOptions::default()).expect("it starts");
    let input = pack(&compiled.graph, &compiled.graph.inputs, &given).expect("the inputs fit");
    let answer = running.infer(&input).expect("it answers");
    let mut outputs = unpack(&compiled.graph, &answer.output).expect("the outputs fit").into_iter();
    let mut judge = |(case, passed): &(&'a Case, Passed)| {
        let pairs: Vec<_> = outputs.by_ref().take(passed.expected.len()).zip(&passed.expected).collect();
        let result = pairs.iter().try_for_each(|((_, found), expected)| compare(found, expected, case));
        (*case, result)
    };
    batch.iter().map(&mut judge).collect()
}

/// Adds a graph to another one, beside what is there.
fn append(whole: &mut Graph, part: &Graph, index: usize) {
    let mut known: BTreeMap<TensorId, TensorId> = BTreeMap::new();
    for tensor in part.tensor_ids() {
        let (name, tensor_type) = (format!("t{index}_{}", tensor.0), part.tensor_type(tensor).clone());
        let added = match part.value(tensor) {
            Some(value) => whole.add_constant(name, value.clone()),
            None => whole.add_tensor(name, tensor_type),
        };
        known.insert(tensor, added);
    }
    whole.inputs.extend(part.inputs.iter().map(|input| known[input]));
    for id in part.node_ids() {
        let node = part.node(id);
        let of = |tensors: &[TensorId]| tensors.iter().map(|tensor| known[tensor]).collect();
        whole.add_node(format!("n{index}_{}", id.0), node.op.clone(), of(&node.inputs), of(&node.outputs));
    }
    part.outputs.iter().for_each(|output| whole.outputs.push(known[output]));
    whole.computed_in_f32.extend(&part.computed_in_f32);
}
