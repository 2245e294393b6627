//! Decides which device computes which part of which node: the sharding ILP.
//!
//! A [`Strategy`] is one way to compute a node: which part of the result each device makes, or which addend. The
//! choice over all nodes is one optimisation: `candidates` lists the strategies, `network` prices them and what has to
//! travel between them, `search` finds the best assignment and says whether it is proven: by elimination and
//! Lagrangian bounds (`elimination`), and by the ILP where these leave a gap (`ilp`). `pipeline` is the special case of
//! whole nodes in consecutive runs.

mod axes;
mod balance;
pub mod bound;
mod candidates;
pub mod cost;
mod elimination;
mod explain;
mod groups;
pub mod held;
mod ilp;
pub mod limits;
mod network;
mod objective;
mod pipeline;
pub mod published;
pub mod relay;
mod reshard;
pub mod roster;
mod search;
mod strategy;
pub mod subsets;
mod sum;
pub mod text;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

pub use balance::rebalanced;
pub use candidates::crossings;
pub use cost::node_macs;
pub use explain::weights_exceed;
pub use objective::{Objective, Weights};
pub use search::Further;
pub use strategy::{Method, Strategy};
pub use sum::sum_of;

use crate::shard::Sharding;
use partita_config::Cluster;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::{Graph, NodeId};

/// The decision, with what was predicted for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Strategy of every node.
    pub strategies: BTreeMap<NodeId, Strategy>,
    /// Operands (node, position) that travel in several steps: the shardings in between, for example scattered before
    /// everybody gathers everything, or along a tree or a ring.
    pub ways: BTreeMap<(NodeId, usize), Vec<Sharding>>,
    /// Nodes that are computed some rows after others, so that no device has to hold whole operands.
    pub stripes: Vec<Stripes>,
    /// What was minimised.
    pub objective: Objective,
    /// Whether nothing among the strategies that were compared has a smaller sum of steps than this plan: see
    /// [`Partition::sum`].
    pub optimal: bool,
    /// Relative distance between this plan and what no plan can beat: of what is reported where a bound on that is known
    /// (`bound`), else of what was minimised.
    pub gap: f64,
    /// What is minimised: the sum over nodes and travel, in seconds, bytes, joules or as weighted. The simulation, which
    /// lets devices work at the same time, knows better what comes of it. None where the objective is no sum.
    pub sum: Option<f64>,
    /// What was proven of this plan, in words.
    pub proven: String,
    /// No plan answers sooner.
    pub lower_bound_ms: f64,
    /// For throughput: seconds between answers that no plan can go below, as far as known.
    pub period_bound_seconds: Option<f64>,
    /// Time the solver took.
    pub solve_ms: f64,
    /// Predicted time of one inference on the best device that could hold everything alone, if there is one.
    pub single_device_ms: Option<f64>,
}

/// Nodes that follow each other in topological order and are computed together, in turns: each turn makes some rows of
/// every result, as many as the nodes behind need for theirs. Nothing is computed twice; rows that windows share are kept
/// from turn to turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripes {
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// How many turns.
    pub count: usize,
}

impl Partition {
    /// Strategies that somebody has chosen; nothing is known of their quality.
    pub fn given(strategies: BTreeMap<NodeId, Strategy>) -> Partition {
        Partition {
            strategies,
            ways: BTreeMap::new(),
            stripes: Vec::new(),
            objective: Objective::Latency,
            optimal: false,
            gap: 0.0,
            sum: None,
            proven: String::new(),
            lower_bound_ms: 0.0,
            period_bound_seconds: None,
            solve_ms: 0.0,
            single_device_ms: None,
        }
    }
}

/// Strategies that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrategyFamily {
    /// The best of all.
    Auto,
    /// Everything on one device.
    Whole,
    /// Consecutive runs of layers, on as many devices as can take part.
    Pipeline,
    /// Output splitting of everything that multiplies, over all devices.
    Lop,
    /// Input splitting, likewise.
    Lip,
    /// Output and input splitting, likewise; output before input needs no traffic in between.
    Fused,
    /// Fused tiles with recomputed halo for convolutions.
    Ftp,
    /// Spatial splitting with exchanged halo for convolutions.
    Spatial,
    /// Some of the samples that are answered together, for everything that multiplies.
    Batch,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionOptions {
    /// What is minimised.
    pub objective: Objective,
    /// Allowed strategies.
    pub family: StrategyFamily,
    /// Bytes of each device's memory that must stay free, beyond what every program needs; missing entries are 0.
    pub reserve_bytes: Vec<u64>,
    /// Share of activations that counts; less than 1 where devices will compute patch by patch (`shard::patches`).
    pub activation_share: f64,
    /// Weights that devices hold; others may not be used.
    pub held: Option<std::sync::Arc<held::Held>>,
    /// How much of the usual work a search may take where memory binds.
    pub effort: Effort,
}

/// How much work a search may take where limits on memory bind; without such limits every answer is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// All of it.
    Full,
    /// A part, for one of many questions.
    Part,
    /// None: only what is best without limits, if that happens to keep them.
    Exact,
}

impl PartitionOptions {
    /// All of every device's memory, all of every activation.
    pub fn new(objective: Objective, family: StrategyFamily) -> PartitionOptions {
        PartitionOptions {
            objective,
            family,
            reserve_bytes: Vec::new(),
            activation_share: 1.0,
            held: None,
            effort: Effort::Full,
        }
    }
}

/// Why there is no partition.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PartitionError {
    /// Some limit cannot be kept.
    #[error("{0}")]
    Infeasible(Diagnostic),
}

/// Decides which device computes what.
pub fn solve(graph: &Graph, cluster: &Cluster, options: &PartitionOptions) -> Result<Partition, PartitionError> {
    solve_also(graph, cluster, options, &[]).0
}

/// The same, and what the same tables say to further questions; answers that do not fit the devices' memories are left
/// out.
pub fn solve_also(
    graph: &Graph,
    cluster: &Cluster,
    options: &PartitionOptions,
    further: &[Further],
) -> (Result<Partition, PartitionError>, Vec<(Further, Partition)>) {
    let everyone = matches!(options.family, StrategyFamily::Lop | StrategyFamily::Lip | StrategyFamily::Fused);
    let count = cluster.devices.len();
    if everyone || count <= roster::LARGEST {
        return solve_for(graph, cluster, options, further);
    }
    let mut size = roster::LARGEST;
    loop {
        let devices = roster::best(cluster, size);
        let asked = options.restricted(&devices);
        let (found, others) = solve_for(graph, &roster::restricted(cluster, &devices), &asked, further);
        let widened = |partition: Partition| roster::widened(partition, &devices, count);
        let others = others.into_iter().map(|(question, partition)| (question, widened(partition))).collect();
        match found {
            Ok(found) => return (Ok(widened(found)), others),
            Err(error) if size >= count => return (Err(error), others),
            Err(_) => size = (2 * size).min(count),
        }
    }
}

impl PartitionOptions {
    /// The same for a cluster of these devices only.
    pub fn restricted(&self, devices: &[usize]) -> PartitionOptions {
        let reserve = |device: &usize| self.reserve_bytes.get(*device).copied().unwrap_or(0);
        let held = self.held.as_ref().map(|held| std::sync::Arc::new(held.restricted(devices)));
        PartitionOptions { reserve_bytes: devices.iter().map(reserve).collect(), held, ..self.clone() }
    }
}

/// The same for a cluster of which all devices may be asked.
fn solve_for(
    graph: &Graph,
    cluster: &Cluster,
    options: &PartitionOptions,
    further: &[Further],
) -> (Result<Partition, PartitionError>, Vec<(Further, Partition)>) {
    let begin = Instant::now();
    let made: OnceCell<Rc<pipeline::Chain>> = OnceCell::new();
    let chain = || made.get_or_init(|| Rc::new(chain_of(graph, cluster, options))).clone();
    let searched = |options: &PartitionOptions| search::search(graph, cluster, options, &chain, further);
    let (found, others) = match options.family {
        // What devices hold decides where weights are; the tables of chains do not know it.
        StrategyFamily::Whole | StrategyFamily::Pipeline if options.held.is_some() => {
            searched(&PartitionOptions { family: StrategyFamily::Auto, ..options.clone() })
        }
        StrategyFamily::Whole => {
            let found = chain().best_single(options.objective);
            (found.map(|found| search::Answer::of_devices(graph, cluster, &chain().devices(&found), true)), Vec::new())
        }
        StrategyFamily::Pipeline => {
            let found = chain().solve(options.objective, true);
            let answer = |(found, proven): (Vec<usize>, bool)| {
                search::Answer::of_devices(graph, cluster, &chain().devices(&found), proven)
            };
            (found.map(answer), Vec::new())
        }
        // Weights may be held more than once, never less.
        _ if explain::weights_exceed(graph, cluster, &options.reserve_bytes) => (None, Vec::new()),
        _ => searched(options),
    };
    let solve_ms = begin.elapsed().as_secs_f64() * 1e3;
    let partition = |answer: search::Answer, objective: Objective| Partition {
        strategies: answer.strategies,
        ways: answer.ways,
        stripes: Vec::new(),
        objective,
        optimal: answer.gap <= OPTIMAL_GAP,
        gap: if answer.gap <= OPTIMAL_GAP { 0.0 } else { answer.gap },
        sum: answer.sum,
        proven: String::new(),
        lower_bound_ms: 0.0,
        period_bound_seconds: answer.period_bound_seconds,
        solve_ms,
        single_device_ms: None,
    };
    let others = further.iter().zip(others).filter_map(|(question, answer)| {
        let answer = answer?;
        Some((*question, partition(answer, question.objective)))
    });
    let others = others.collect();
    match found {
        Some(answer) => (Ok(partition(answer, options.objective)), others),
        None => (Err(PartitionError::Infeasible(explain::explain(graph, cluster, &chain(), options))), others),
    }
}

/// The graph as a chain on a cluster. Single devices and pipelines of very many devices are not worth their tables.
fn chain_of(graph: &Graph, cluster: &Cluster, options: &PartitionOptions) -> pipeline::Chain {
    let few = roster::best(cluster, roster::LARGEST);
    let mut chain = if cluster.devices.len() > roster::LARGEST {
        let asked = options.restricted(&few);
        pipeline::Chain::new(graph, &roster::restricted(cluster, &few), &asked.reserve_bytes)
    } else {
        pipeline::Chain::new(graph, cluster, &options.reserve_bytes)
    };
    for bytes in &mut chain.problem.arena {
        *bytes = (*bytes as f64 * options.activation_share) as u64;
    }
    chain
}

/// Relative gaps below this are rounding.
pub const OPTIMAL_GAP: f64 = 1e-6;

/// Every strategy of every node that is worth a look on a cluster; public for tests of what follows, here and elsewhere.
#[doc(hidden)]
pub fn strategies_of(graph: &Graph, cluster: &Cluster) -> BTreeMap<NodeId, Vec<Strategy>> {
    let (family, objective) = (StrategyFamily::Auto, Objective::Memory);
    let breadth = candidates::Breadth::Full;
    let choice = candidates::Choice { graph, cluster, family, objective, breadth, activation_share: 1.0, held: None };
    let order = graph.topological_order().unwrap_or_default();
    let listed = candidates::candidates(&choice, &order);
    let plain = |listed: Vec<candidates::Candidate>| {
        listed.into_iter().filter(|candidate| candidate.run.is_none()).map(|candidate| candidate.strategy).collect()
    };
    order.into_iter().zip(listed).map(|(id, listed)| (id, plain(listed))).collect()
}
