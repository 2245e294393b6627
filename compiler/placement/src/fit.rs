//! The best plan that keeps every limit, carried out: who does not fit once programs are made is asked again with more
//! room kept free.

use partita_config::{Cluster, System};
use partita_ir::diagnostic::{Diagnostic, size};
use partita_ir::graph::Graph;
use partita_plan::partition::{self, Objective, Partition, PartitionOptions, StrategyFamily};

use crate::clock::Clock;
use crate::failure::Failure;
use crate::options::PlacementOptions;
use crate::placed::{Placed, place};
use crate::prospect::Prospect;
use crate::{memory_objective, plan_file};

/// Shares of activations that are counted, one after the other, until a plan is found: with less than all, plans whose
/// devices will have to compute patch by patch.
const ACTIVATION_SHARES: [f64; 3] = [1.0, 0.4, 0.15];

/// The best plan that keeps every limit.
pub fn fit(graph: &Graph, cluster: &Cluster, options: &PlacementOptions, clock: &mut Clock) -> Result<Placed, Failure> {
    fit_from(None, graph, cluster, options, clock)
}

/// The same where the plans that compete are known already, or why there are none.
pub fn fit_known(
    known: Result<Prospect<'_>, Failure>,
    graph: &Graph,
    cluster: &Cluster,
    options: &PlacementOptions,
    clock: &mut Clock,
) -> Result<Placed, Failure> {
    fit_from(Some(known), graph, cluster, options, clock)
}

fn fit_from(
    mut known: Option<Result<Prospect<'_>, Failure>>,
    graph: &Graph,
    cluster: &Cluster,
    options: &PlacementOptions,
    clock: &mut Clock,
) -> Result<Placed, Failure> {
    let mut refusal = None;
    let firmware = cluster.devices.iter().any(|device| device.target.system == System::CortexM);
    for share in ACTIVATION_SHARES {
        let found = match known.take() {
            Some(known) => known.and_then(|known| Ok(known.carry_out(clock)?.placed)),
            None => fit_counting(graph, cluster, options, share, clock),
        };
        match found {
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
    let wanted = PartitionOptions { activation_share, ..options.partition() };
    if options.plan.is_none() && options.objective != Objective::Memory {
        return Ok(Prospect::of(graph, cluster, wanted, clock)?.carry_out(clock)?.placed);
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

/// The partition whose fullest device needs least: what memory a program takes, the memory plan knows best.
pub(crate) fn least_memory(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions) -> Result<Partition, Failure> {
    let best = partition::solve(graph, cluster, wanted).map_err(partition_failure)?;
    Ok(match wanted.family {
        StrategyFamily::Auto => memory_objective::least(graph, cluster, wanted, best),
        _ => best,
    })
}

/// Says which device's memory is too small for the plan, and by how much.
pub(crate) fn does_not_fit(placed: &Placed, excess: &[u64], cluster: &Cluster) -> Diagnostic {
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
