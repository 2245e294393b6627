//! The table of operators, `conformance/operators.md`: what the conformance vectors show of each. `BLESS=1` rewrites it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use partita::config::{Cluster, cluster_file};
use partita::driver::{self, Options};
use partita::graph::{Graph, NodeId};
use partita::onnx::{ImportOptions, import, supported_operators};
use partita::passes;
use partita::program::Step;
use partita_ir::region::Region;
use partita_ir::restrict::{restrict, space};
use partita_ir::space::AxisKind;
use partita_tests::bundle::ClusterText;
use partita_tests::place;

const HEAD: &str = "\
# Operators

Made by `BLESS=1 cargo test -p partita-tests --test all operators::` of the vectors in `vectors/`, whose answers are onnxruntime's.

- **sets**: operator sets of the vectors; every set from 1 to 28 is read as its version of the operator says.
- **types**: element types of inputs and results.
- **computed by**: `emitted` kernels (machine code for a Raspberry Pi 4), `portable` ones of the run time, or `nothing` where it
  is a constant or another view of the same elements.
- **cut over devices**: along axes of the result, by `sums` of parts, or not at all (it then runs whole on one device).

| operator | sets | types | computed by | cut over devices |
|---|---|---|---|---|
";

/// What is known of an operator.
#[derive(Default)]
struct Row {
    sets: BTreeSet<u32>,
    types: BTreeSet<String>,
    computed_by: BTreeSet<&'static str>,
    cut: BTreeSet<&'static str>,
}

/// A line of `cases.txt`.
struct Case {
    name: String,
    opset: u32,
    operators: BTreeSet<String>,
    types: BTreeSet<String>,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join("cases.txt")).expect("the list of vectors");
    let of = |line: &str| {
        let mut cells = line.split(" | ");
        let mut cell = || cells.next().unwrap_or_default();
        let (name, opset, operators, signature) = (cell(), cell(), cell(), cell());
        let types = signature.split(": ").skip(1).filter_map(|typed| typed.split('[').next());
        Case {
            name: name.to_string(),
            opset: opset.parse().expect("a number"),
            operators: operators.split(", ").map(str::to_string).collect(),
            types: types.map(str::to_string).collect(),
        }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(of).collect()
}

fn folder() -> std::path::PathBuf {
    place::repository().join("tests/conformance")
}

/// How a result can be shared: along its axes, or as a sum.
fn cuts(graph: &Graph, id: NodeId) -> BTreeSet<&'static str> {
    let shape = graph.shape(graph.node(id).outputs[0]);
    let along = |axis: usize| {
        let whole = Region::whole(shape);
        let half = whole.with(axis, 0, shape[axis] / 2);
        half.is_some_and(|half| restrict(graph, id, &half).is_some())
    };
    let mut found = BTreeSet::new();
    if (0..shape.len()).any(along) {
        found.insert("axes");
    }
    if space(graph, id).axes.iter().any(|axis| axis.kind == AxisKind::Sum && axis.extent > 1) {
        found.insert("sums");
    }
    found
}

fn describe(case: &Case, cluster: &Cluster, row: &mut Row) {
    row.sets.insert(case.opset);
    row.types.extend(case.types.iter().cloned());
    let mut graph = import(&folder().join(format!("vectors/{}.onnx", case.name)), &ImportOptions::default())
        .unwrap_or_else(|diagnostics| panic!("{}: {}", case.name, diagnostics[0]));
    passes::simplify(&mut graph, &mut |_, _, _| {}).expect("it is simplified");
    graph.node_ids().for_each(|id| row.cut.extend(cuts(&graph, id)));
    let compiled = driver::compile_graph(case.name.clone(), graph, cluster.clone(), &Options::default());
    let compiled = compiled.unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
    let steps = compiled.routed.placed.programs.iter().flat_map(|program| &program.steps);
    let by = steps.filter_map(|step| match step {
        Step::Kernel { .. } => Some("emitted"),
        Step::Reference { .. } => Some("portable"),
        _ => None,
    });
    let by: BTreeSet<_> = by.collect();
    row.computed_by.extend(if by.is_empty() { BTreeSet::from(["nothing"]) } else { by });
}

#[test]
fn the_table_of_operators_is_what_vectors_show() {
    let folder_of_cluster = tempfile::tempdir().expect("a temporary folder");
    let cluster = ClusterText::single("raspberry-pi-4").write(folder_of_cluster.path());
    let cluster = cluster_file::read(Path::new(&cluster)).expect("a sound cluster");
    let cases = cases();
    let alone: BTreeSet<&String> =
        cases.iter().filter(|case| case.operators.len() == 1).flat_map(|case| &case.operators).collect();
    let mut rows: BTreeMap<&str, Row> = supported_operators().iter().map(|name| (*name, Row::default())).collect();
    for case in &cases {
        for operator in &case.operators {
            // Of those that come together with others, only what is never alone.
            if case.operators.len() > 1 && alone.contains(operator) {
                continue;
            }
            let named = ["", "ai.onnx.ml.", "com.microsoft."].map(|domain| format!("{domain}{operator}"));
            let name = named.iter().find(|name| rows.contains_key(name.as_str()));
            if let Some(row) = name.and_then(|name| rows.get_mut(name.as_str())) {
                describe(case, &cluster, row);
            }
        }
    }
    let words = |set: &BTreeSet<&str>| set.iter().copied().collect::<Vec<_>>().join(", ");
    let mut table = HEAD.to_string();
    assert!(rows.len() > 150, "{} operators", rows.len());
    let mut without = Vec::new();
    for (name, row) in &rows {
        if row.sets.is_empty() {
            without.push(format!("`{name}`"));
            continue;
        }
        let sets = row.sets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let types = row.types.iter().cloned().collect::<Vec<_>>().join(", ");
        let cut = if row.cut.is_empty() { "-".to_string() } else { words(&row.cut) };
        table.push_str(&format!("| {name} | {sets} | {types} | {} | {cut} |\n", words(&row.computed_by)));
    }
    table.push_str(&format!("\nWithout a vector of their own: {}.\n", without.join(", ")));
    let path = folder().join("operators.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &table).expect("the table is written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == table, "conformance/operators.md is not what the vectors show: BLESS=1 rewrites it");
}
