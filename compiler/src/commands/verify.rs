//! `--verify`: the emitted programs, running together, against the reference kernels.

use std::collections::BTreeMap;

use super::infer::noise_inputs;
use crate::bundle::cargo::BuiltDevice;
use crate::cli::Arguments;
use crate::diagnostic::Diagnostic;
use crate::driver::{Compiled, Failure};
use crate::graph::{Data, ElementType, TensorId, Value, eval};
use crate::kernel::Kernel;
use crate::partition::encodings::Encoding;
use crate::run::local::{LocalOptions, pack, start, unpack};
use partita_learn::progress::note;

/// Random inputs tried.
const TRIALS: u64 = 3;

/// Largest difference allowed, relative to the output's largest absolute value: rounding of reordered additions.
const TOLERANCE: f32 = 1e-4;

/// The same where products round their rows to 16 bits, which the reference does not: 2^-16 of a row's largest element, in
/// every layer.
const TOLERANCE_ROUNDED: f32 = 1e-3;

/// The same where bytes travel: a step is at most so much of a tensor's largest element.
const TOLERANCE_STEPS: f32 = 1.0 / 127.0;

/// Runs the cluster on seeded noise, on every route that it has, and compares every output.
pub(super) fn verify(arguments: &Arguments, compiled: &Compiled, built: &[BuiltDevice]) -> Result<(), Failure> {
    let mut cluster =
        start(compiled, built, LocalOptions { launcher: arguments.launcher.as_deref(), ..LocalOptions::default() })
            .map_err(Failure::Environment)?;
    let allowed = allowed_difference(compiled);
    let mut worst = 0.0f32;
    let graphs = std::iter::once(&compiled.graph).chain(compiled.routed.routes.iter().map(|route| &route.graph));
    // Devices keep in mind what exits have said lately, whatever the route.
    let mut steady = BTreeMap::new();
    // And states, which are zero at first.
    let zero = |(_, state): (TensorId, TensorId)| Value::zeros(compiled.graph.tensor_type(state));
    let mut states: Vec<Value> = compiled.graph.state_pairs().map(zero).collect();
    for (route, graph) in graphs.enumerate() {
        for seed in 0..TRIALS {
            let given = noise_inputs(graph, 1000 + seed);
            let inputs = [given.as_slice(), &states].concat();
            let mut expected = eval::evaluate_until_exit(graph, &inputs, &mut steady)
                .map_err(|error| Failure::Internal(error.into()))?;
            let input = pack(graph, graph.given_inputs(), &given).map_err(Failure::Environment)?;
            let wanted = compiled.routed.choices.as_ref().map(|_| route as u8);
            let result = cluster.infer_on(&input, wanted).map_err(|error| Failure::Environment(error.into()))?;
            let outputs = unpack(graph, &result.output).map_err(Failure::Environment)?;
            states = expected.outputs.split_off(expected.outputs.len() - states.len());
            for ((name, found), expected) in outputs.iter().zip(&expected.outputs) {
                let difference = difference(name, found, expected, allowed).map_err(|diagnostic| {
                    Failure::Difference(diagnostic.note(format!("route {route}, seed {seed}")))
                })?;
                worst = worst.max(difference);
            }
        }
    }
    let routes = match compiled.routed.routes.len() {
        0 => String::new(),
        further => format!(" on each of {} routes", further + 1),
    };
    note(&format!("verified {TRIALS} random inputs{routes}, largest relative difference {worst:.1e}"));
    Ok(())
}

/// How far answers may be from those of the reference kernels, relative to an output's largest absolute value.
pub(super) fn allowed_difference(compiled: &Compiled) -> f32 {
    let mut kernels = compiled.routed.placed.programs.iter().flat_map(|program| &program.kernels);
    // Sums that differ in their last digits may be rounded to neighbours before they travel.
    let sent = compiled.links.iter().flat_map(|links| &links.tensors).map(|tensor| match tensor.how {
        Encoding::Half => TOLERANCE_ROUNDED,
        Encoding::Steps(_) => TOLERANCE_STEPS,
    });
    sent.fold(if kernels.any(Kernel::rounds_rows) { TOLERANCE_ROUNDED } else { TOLERANCE }, f32::max)
}

/// Largest relative difference of a tensor; an error if it is too large. Halves may be rounded to a neighbour, whole
/// numbers not at all.
pub(super) fn difference(name: &str, found: &Value, expected: &Value, allowed: f32) -> Result<f32, Diagnostic> {
    let element = expected.data.element();
    let allowed = match element {
        ElementType::F16 => allowed.max(1.0 / 1024.0),
        ElementType::BF16 => allowed.max(1.0 / 128.0),
        _ if element.is_float() => allowed,
        _ => 0.0,
    };
    let (found, expected) = (numbers(&found.data), numbers(&expected.data));
    let scale = expected.iter().fold(f64::from(f32::MIN_POSITIVE), |scale, element| scale.max(element.abs()));
    let mut worst = 0.0f32;
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = ((found - expected).abs() / scale) as f32;
        // Not `>`: a NaN on one side only must fail too.
        if !(difference <= allowed || found.to_bits() == expected.to_bits()) {
            let name = crate::diagnostic::printable(name);
            let message = format!("output `{name}`[{index}] is {found}, but the reference kernels say {expected}");
            let note = format!("relative difference {difference:e}, allowed {allowed:e}");
            return Err(Diagnostic::new("E0800", message).note(note));
        }
        worst = worst.max(difference);
    }
    Ok(worst)
}

/// Elements as numbers.
fn numbers(data: &Data) -> Vec<f64> {
    match data.cast(ElementType::F64) {
        Data::F64(elements) => elements,
        _ => Vec::new(),
    }
}
