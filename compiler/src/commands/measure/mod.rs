//! `--measure`: runs the model on the cluster's devices by several families of strategies, compares each step with its
//! prediction, sends tensors to and fro over the links, and writes what corrects later predictions.

mod links;
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use super::build::{build, folder_name, note};
use super::infer::noise_inputs;
use crate::bundle;
use crate::cli::Arguments;
use crate::config;
use crate::config::learned::Origin;
use crate::config::measured::{Corrections, DeviceKind, Measured, default_path};
use crate::driver::{self, Compiled, Failure, Options};
use crate::graph::NodeId;
use crate::interrupt::TemporaryFolder;
use crate::partition::{StrategyFamily, cost};
use crate::program::{Program, Step};
use crate::run::local::{LocalOptions, pack, start};
use crate::schedule::Action;

/// Least inferences per family.
const RUNS: usize = 16;

/// Least time of each family: long enough to see a device in its better moments and in its worse ones.
const SECONDS: f64 = 3.0;

/// The part of the inferences of a family that only warms up.
const WARM_UP: f64 = 0.25;

/// Measured and predicted seconds.
#[derive(Clone, Copy, Default)]
struct Sum {
    measured: f64,
    predicted: f64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.measured += other.measured;
        self.predicted += other.predicted;
    }

    fn factor(self) -> Option<f64> {
        (self.predicted > 0.0 && self.measured > 0.0).then(|| self.measured / self.predicted)
    }
}

/// Everything seen of one kind of device: by family, and by node and method.
#[derive(Default)]
struct Measurements {
    family: BTreeMap<String, Sum>,
    node: BTreeMap<String, BTreeMap<String, Sum>>,
}

/// Measures and writes the file.
pub(super) fn measure(arguments: &Arguments, model: &Path, targets: &Path, origin: Origin) -> Result<(), Failure> {
    // Predictions of the target files alone: factors replace earlier ones.
    let nothing = tempfile::NamedTempFile::new().map_err(|error| Failure::Environment(error.into()))?;
    let mut seen: BTreeMap<(String, String), Measurements> = BTreeMap::new();
    let mut ran: Vec<Ran> = Vec::new();
    let mut refused = None;
    let families = [StrategyFamily::Whole, StrategyFamily::Lop, StrategyFamily::Spatial, StrategyFamily::Ftp];
    for family in families {
        let options = Options { family, measured: Some(nothing.path().to_path_buf()), ..Options::of(arguments) };
        let compiled = match driver::compile(model, targets, &options, &mut ()) {
            Ok(compiled) => compiled,
            // Not every model fits every device whole; the other families tell enough.
            Err(Failure::Infeasible(why)) => {
                note(arguments, &format!("{family:?} is left out: {why}"));
                refused = Some(why);
                continue;
            }
            Err(other) => return Err(other),
        };
        let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("out").join(folder_name(&compiled)));
        let latency_ms = run(arguments, &compiled, &out, &mut seen).map_err(Failure::Environment)?;
        note(
            arguments,
            &format!(
                "{family:?}: predicted {:.3} ms, measured {latency_ms:.3} ms",
                compiled.routed.prediction.latency_ms
            ),
        );
        ran.push(Ran { family, compiled, latency_ms });
    }
    // A file without anything in it would take the place of an earlier one.
    if let Some(why) = refused.filter(|_| ran.is_empty()) {
        return Err(Failure::Infeasible(why));
    }
    let cluster = config::cluster_file::read(targets)?;
    let folder = TemporaryFolder::new("partita-links-");
    let folder = folder.map_err(|error| Failure::Environment(error.into()))?;
    let link = links::measure(arguments, &cluster, &folder)?;
    let measured = messages::fit(
        &cluster,
        Measured { origin: Some(origin), kind: seen.into_iter().map(kind).collect(), link },
        &ran,
    );
    let path = arguments.measured.clone().unwrap_or_else(|| default_path(targets));
    let text = toml::to_string(&measured).map_err(|error| Failure::Internal(error.into()))?;
    let head = format!(
        "# Written by compile --measure from {}: computation as measured time divided by what the\n# target files predict, links as seen by programs.\n\n",
        model.file_name().map_or_else(String::new, |name| crate::diagnostic::printable(&name.to_string_lossy()))
    );
    std::fs::write(&path, head + &text)
        .with_context(|| format!("writing {}", path.display()))
        .map_err(Failure::Environment)?;
    println!(
        "{:<12} {:>14} {:>14} {:>10}   with these measurements",
        "strategy", "predicted ms", "measured ms", "error"
    );
    for Ran { family, compiled, latency_ms: measured_ms } in ran {
        let before_ms = compiled.routed.prediction.latency_ms;
        let options = Options { family, measured: Some(path.clone()), ..Options::of(arguments) };
        let after_ms = driver::compile(model, targets, &options, &mut ())?.routed.prediction.latency_ms;
        let error = |predicted: f64| (predicted / measured_ms - 1.0) * 100.0;
        println!(
            "{:<12} {before_ms:>14.3} {measured_ms:>14.3} {:>8.1} %   {after_ms:.3} ms, {:+.1} %",
            format!("{family:?}").to_lowercase(),
            error(before_ms),
            error(after_ms)
        );
    }
    println!("wrote {}", path.display());
    Ok(())
}

/// A family that was run.
struct Ran {
    family: StrategyFamily,
    compiled: Compiled,
    /// Median.
    latency_ms: f64,
}

/// Builds and runs the plan of one family, and adds what its steps took. Gives the median latency.
fn run(
    arguments: &Arguments,
    compiled: &Compiled,
    out: &Path,
    seen: &mut BTreeMap<(String, String), Measurements>,
) -> anyhow::Result<f64> {
    let (latency_ms, profiles) = profiled(arguments, compiled, out, (RUNS, SECONDS))?;
    for (program, profiles) in compiled.routed.placed.programs.iter().zip(&profiles) {
        let device = &compiled.cluster.devices[program.device];
        let seen = seen.entry((device.target.name.clone(), device.cpu.to_string())).or_default();
        add_steps(compiled, program, profiles, seen);
    }
    Ok(latency_ms)
}

/// Builds the programs and infers at least so often and for so many seconds: median latency in ms, and per program and
/// inference what each step took, in ns. The first part of the inferences is not counted.
pub(super) fn profiled(
    arguments: &Arguments,
    compiled: &Compiled,
    out: &Path,
    (least_runs, least_seconds): (usize, f64),
) -> anyhow::Result<(f64, Vec<Vec<Vec<u64>>>)> {
    let report = super::summary::report(compiled);
    bundle::write(out, compiled, &report)?;
    let built = build(arguments, out, compiled)?;
    let wanted = LocalOptions { launcher: arguments.launcher.as_deref(), profile: true, silence: None };
    let mut cluster = start(compiled, &built, wanted)?;
    let input = pack(&compiled.graph, compiled.graph.given_inputs(), &noise_inputs(&compiled.graph, 1))?;
    let mut times_ms = Vec::new();
    let mut profiles: Vec<Vec<Vec<u64>>> = vec![Vec::new(); compiled.routed.placed.programs.len()];
    let begin = Instant::now();
    while times_ms.len() < least_runs.max(2) || begin.elapsed().as_secs_f64() < least_seconds {
        let result = cluster.infer(&input)?;
        times_ms.push(result.wall_time.as_secs_f64() * 1e3);
        profiles.iter_mut().zip(result.profiles).for_each(|(all, one)| all.push(one));
    }
    let warming = ((times_ms.len() as f64 * WARM_UP) as usize).max(1);
    times_ms.drain(..warming);
    profiles.iter_mut().for_each(|all| drop(all.drain(..warming)));
    times_ms.sort_by(f64::total_cmp);
    Ok((times_ms[times_ms.len() / 2], profiles))
}

/// Adds one device's steps. Reorders count for the step that they prepare, copies for the nodes that have no step of
/// their own: what joins and cuts tensors between devices, mostly.
fn add_steps(compiled: &Compiled, program: &Program, profiles: &[Vec<u64>], seen: &mut Measurements) {
    let graph = &compiled.routed.placed.sharded.graph;
    let by_name: BTreeMap<&str, NodeId> =
        compiled.routed.placed.sharded.labels.keys().map(|id| (graph.node(*id).name.as_str(), *id)).collect();
    let device = &compiled.cluster.devices[program.device];
    let (mut pending, mut copying) = (0.0, 0.0);
    let mut stepped: BTreeSet<&str> = BTreeSet::new();
    for (index, step) in program.steps.iter().enumerate() {
        let times: Vec<u64> = profiles.iter().filter_map(|profile| profile.get(index).copied()).collect();
        // The mean: on a device that is given its processor in slices, pauses belong to the cost.
        let seconds = times.iter().sum::<u64>() as f64 * 1e-9 / times.len().max(1) as f64;
        let nodes = match step {
            Step::Kernel { node, fused, .. } => [node].into_iter().chain(fused).collect(),
            Step::Reference { node, .. } => vec![node],
            Step::Reorder { .. } => {
                pending += seconds;
                continue;
            }
            Step::Copy { .. } => {
                copying += seconds;
                continue;
            }
            Step::Start { .. } | Step::Exchange { .. } | Step::Leave { .. } => continue,
        };
        stepped.extend(nodes.iter().map(|node| node.as_str()));
        let known: Vec<_> = nodes.iter().filter_map(|node| by_name.get(node.as_str())).collect();
        let known: Vec<_> = known
            .into_iter()
            .filter_map(|id| Some((compiled.routed.placed.sharded.labels.get(id)?, cost::node_work(graph, *id))))
            .map(|(label, work)| (label, cost::seconds(&work, device), work))
            .collect();
        let predicted: f64 = known.iter().map(|(_, predicted, _)| predicted).sum();
        if known.is_empty() {
            continue;
        }
        // Nodes of one kernel share its time as predicted.
        let measured = seconds + std::mem::take(&mut pending);
        for ((name, method), own, work) in &known {
            let part = if predicted > 0.0 { own / predicted } else { 1.0 / known.len() as f64 };
            let by_node = seen.node.entry(name.clone()).or_default().entry(method.name().to_string()).or_default();
            let by_family = seen.family.entry(cost::family(work).to_string()).or_default();
            for sum in [by_node, by_family] {
                sum.add(Sum { measured: measured * part, predicted: *own });
            }
        }
    }
    add_copies(compiled, program, &stepped, copying, seen);
}

/// Adds what the copies of a device took, for the nodes of its schedule that have no step of their own.
fn add_copies(compiled: &Compiled, program: &Program, stepped: &BTreeSet<&str>, copying: f64, seen: &mut Measurements) {
    let graph = &compiled.routed.placed.sharded.graph;
    let device = &compiled.cluster.devices[program.device];
    let schedule = compiled.routed.placed.schedules.iter().filter(|schedule| schedule.device == program.device);
    let actions = schedule.flat_map(|schedule| &schedule.actions);
    let computed = actions.filter_map(|action| if let Action::Compute(node) = action { Some(*node) } else { None });
    let copied: Vec<(NodeId, f64)> = computed
        .filter(|id| !stepped.contains(graph.node(*id).name.as_str()))
        .map(|id| (id, cost::seconds(&cost::node_work(graph, id), device)))
        .collect();
    let predicted: f64 = copied.iter().map(|(_, own)| own).sum();
    if predicted <= 0.0 || copying <= 0.0 {
        return;
    }
    let sum = Sum { measured: copying, predicted };
    for (label, own) in
        copied.iter().filter_map(|(id, own)| Some((compiled.routed.placed.sharded.labels.get(id)?, own)))
    {
        let by_method = seen.node.entry(label.0.clone()).or_default();
        by_method
            .entry(label.1.name().to_string())
            .or_default()
            .add(Sum { measured: copying * own / predicted, predicted: *own });
    }
    seen.family.entry(cost::COPIES.to_string()).or_default().add(sum);
}

/// Sums as factors.
fn kind(((target, cpu), seen): ((String, String), Measurements)) -> DeviceKind {
    let factors = |sums: BTreeMap<String, Sum>| -> BTreeMap<String, f64> {
        sums.into_iter().filter_map(|(name, sum)| Some((name, sum.factor()?))).collect()
    };
    let node = seen.node.into_iter().map(|(name, methods)| (name, factors(methods))).collect();
    let corrections = Corrections { family: factors(seen.family), node };
    DeviceKind { target, cpu: cpu.parse().unwrap_or(1.0), message_microseconds: None, corrections }
}
