//! The best plan that keeps every limit, carried out: who does not fit once programs are made is asked again with more
//! room kept free.

use std::sync::Arc;

use partita_config::{Cluster, System};
use partita_ir::diagnostic::{Diagnostic, size};
use partita_ir::graph::Graph;
use partita_plan::partition::encodings::Encodings;
use partita_plan::partition::{self, Objective, Partition, PartitionOptions, StrategyFamily};
use partita_plan::shard::{Encoded, encoded};

use crate::clock::Clock;
use crate::contest::{Breadth, Contest};
use crate::failure::Failure;
use crate::options::PlacementOptions;
use crate::placed::{Placed, place};
use crate::score::Figures;
use crate::{memory_objective, plan_file};

/// Shares of activations that are counted, one after the other, until a plan is found: with less than all, plans whose
/// devices will have to compute patch by patch.
const ACTIVATION_SHARES: [f64; 3] = [1.0, 0.4, 0.15];

/// Plans that are carried out until one fits.
const ATTEMPTS: usize = 16;

/// A network that is placed, and whose links send some tensors in fewer bytes.
pub struct Linked {
    /// The graph, with what travels so rounded before.
    pub graph: Graph,
    /// What travels so, by the tensors of the graph before.
    pub encodings: Encodings,
    /// The plan, carried out.
    pub placed: Placed,
}

/// The best plan that keeps every limit with links that send these tensors in fewer bytes, where that pays. `None` if it pays
/// nowhere, or if no such plan keeps every limit.
pub fn fit_encoded(
    graph: &Graph,
    cluster: &Cluster,
    options: &PlacementOptions,
    encodings: Encodings,
    clock: &mut Clock,
) -> Result<Option<Linked>, Failure> {
    if options.objective == Objective::Memory || encodings.is_empty() {
        return Ok(None);
    }
    let encodings = Arc::new(encodings);
    let wanted = PartitionOptions { encodings, ..PartitionOptions::new(options.objective, options.family) };
    match fit_best(graph, cluster, &wanted, clock) {
        Ok((placed, Some(Encoded { graph, encodings, .. }))) => Ok(Some(Linked { graph, encodings, placed })),
        Ok((_, None)) | Err(Failure::Infeasible(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The best plan that keeps every limit.
pub fn fit(graph: &Graph, cluster: &Cluster, options: &PlacementOptions, clock: &mut Clock) -> Result<Placed, Failure> {
    let mut refusal = None;
    let firmware = cluster.devices.iter().any(|device| device.target.system == System::CortexM);
    for share in ACTIVATION_SHARES {
        match fit_counting(graph, cluster, options, share, clock) {
            Err(Failure::Infeasible(why)) => refusal = refusal.or(Some(why)),
            other => return other,
        }
        // Where weights lie in RAM too, and nodes are shared, whole activations are not what fails.
        if options.plan.is_some() || !firmware && cluster.devices.len() > 1 {
            break;
        }
    }
    Err(refusal.map_or_else(|| Failure::Internal(anyhow::anyhow!("no share was tried")), Failure::Infeasible))
}

/// The same with a share of activations counted.
fn fit_counting(
    graph: &Graph,
    cluster: &Cluster,
    options: &PlacementOptions,
    activation_share: f64,
    clock: &mut Clock,
) -> Result<Placed, Failure> {
    let wanted = PartitionOptions { activation_share, ..PartitionOptions::new(options.objective, options.family) };
    if options.plan.is_none() && options.objective != Objective::Memory {
        return Ok(fit_best(graph, cluster, &wanted, clock)?.0);
    }
    let mut reserve_bytes = vec![0; cluster.devices.len()];
    loop {
        let partition = match &options.plan {
            Some(path) => plan_file::read_partition(path, graph, cluster)?,
            None => {
                let reserve_bytes = reserve_bytes.clone();
                least_memory(graph, cluster, &PartitionOptions { reserve_bytes, ..wanted.clone() })?
            }
        };
        clock.lap("partition");
        let mut placed = place(graph, cluster, partition, clock)?;
        placed.patch(cluster)?;
        clock.lap("patches");
        let excess = placed.excess_bytes(cluster);
        if excess.iter().all(|bytes| *bytes == 0) {
            return Ok(placed);
        }
        let given_up = options.plan.is_some()
            || reserve_bytes
                .iter()
                .zip(&excess)
                .any(|(reserve, excess)| *reserve > 0 && *excess > 0 && *reserve > 64 * *excess);
        if given_up {
            return Err(Failure::Infeasible(does_not_fit(&placed, &excess, cluster)));
        }
        for (reserve, excess) in reserve_bytes.iter_mut().zip(excess) {
            *reserve += excess + excess / 8;
        }
    }
}

/// The best of all plans that compete and fit. The partition counts tensors; the memory plan counts padding, alignment and
/// what stays alive: who does not fit is asked again with more room kept free. Beside it, what travels in fewer bytes.
fn fit_best(
    graph: &Graph,
    cluster: &Cluster,
    wanted: &PartitionOptions,
    clock: &mut Clock,
) -> Result<(Placed, Option<Encoded>), Failure> {
    let mut contest = Contest::new(graph, cluster, wanted, Breadth::All).map_err(partition_failure)?;
    clock.lap("partition");
    let mut refusal = None;
    for _ in 0..ATTEMPTS {
        let Some(best) = contest.pop() else { break };
        let encoded = encoded(graph, &best.partition, cluster, &wanted.encodings);
        let (carried_out, partition) =
            encoded.as_ref().map_or((graph, &best.partition), |it| (&it.graph, &it.partition));
        let mut placed = place(carried_out, cluster, partition.clone(), clock)?;
        placed.patch(cluster)?;
        clock.lap("patches");
        let excess = placed.excess_bytes(cluster);
        if excess.iter().any(|bytes| *bytes > 0) {
            refusal = refusal.or_else(|| Some(does_not_fit(&placed, &excess, cluster)));
            contest.ask_again(&best, &excess);
            clock.lap("partition");
            continue;
        }
        // What is computed patch by patch takes longer.
        let (sharded, schedules) = (&placed.sharded, &placed.schedules);
        let figures = Figures::of_schedules(carried_out, cluster, sharded, schedules, wanted.objective);
        if placed.patches.is_empty() || contest.put_back(best.clone(), figures) {
            let strategies = std::mem::take(&mut placed.partition.strategies);
            placed.partition = Partition { strategies, ..contest.certified(best.with(figures)) };
            clock.lap("partition");
            return Ok((placed, encoded));
        }
    }
    if let Some(refused) = contest.refused.take() {
        return Err(partition_failure(refused));
    }
    let none = || Diagnostic::new("E0170", "no plan was found that keeps every limit");
    Err(Failure::Infeasible(refusal.unwrap_or_else(none)))
}

/// The partition whose fullest device needs least: what memory a program takes, the memory plan knows best.
pub(crate) fn least_memory(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions) -> Result<Partition, Failure> {
    let best = partition::solve(graph, cluster, wanted).map_err(partition_failure)?;
    Ok(match wanted.family {
        StrategyFamily::Auto => memory_objective::least(graph, cluster, wanted, best),
        _ => best,
    })
}

/// Says which device's memory is too small for the plan, and by how much.
fn does_not_fit(placed: &Placed, excess: &[u64], cluster: &Cluster) -> Diagnostic {
    let mut diagnostic = Diagnostic::new("E0170", "the plan does not fit the devices' memories");
    for program in &placed.programs {
        let device = &cluster.devices[program.device];
        if excess[program.device] > 0 {
            diagnostic = diagnostic.note(format!(
                "device `{}` needs {} for weights and {} of working memory, {} more than it has",
                device.name,
                size(program.weights_bytes as u64),
                size(program.arena_bytes as u64),
                size(excess[program.device])
            ));
        }
    }
    diagnostic.help("more RAM or flash, a further device, or another --strategy would help")
}

pub(crate) fn partition_failure(error: partition::PartitionError) -> Failure {
    match error {
        partition::PartitionError::Infeasible(diagnostic) => Failure::Infeasible(diagnostic),
    }
}
