//! The compiler on one page: every stage, in order, nothing else. Each takes the values of those before it and makes one of
//! its own.
//!
//! What `Linked::of` has `placement` do, in this order, for plans that compete until one fits: partition
//! (`plan/src/partition/solve.rs`, asked by `placement/src/contest.rs`); then, in `placement/src/placed.rs`,
//! shard (`plan/src/shard/rewrite.rs`), schedule (`plan/src/schedule/mod.rs`) with its proof (`check.rs` there), and for each
//! device lower (`program/src/program/lower/mod.rs`) and memory (`program/src/memory/mod.rs`) with its check (`check.rs`
//! there); patches, where activations are too large (`placement/src/patching.rs`). Routes of `Routed` go the same way.
//! `Planned` is simulate (`plan/src/simulate/mod.rs`). Behind the pipeline `commands` write the bundle (`bundle/mod.rs`), for
//! which emit (`program/src/emit/model.rs`) spells out every program, and build, run or deploy it.

mod advised;
mod compiled;
mod dump;
mod imported;
mod linked;
mod planned;
mod routed;
mod simplified;
mod targets;
mod taught;

use std::path::Path;

use partita_learn::host::Host;

use crate::config::Cluster;
use crate::graph::Graph;
use crate::options::Options;
use crate::partition::Partition;
use crate::placement::{self, Clock, Failure};

pub use advised::{Advice, Change};
pub use compiled::Compiled;
pub use dump::{Dump, stages};
pub use imported::Imported;
pub use linked::Linked;
pub use planned::Planned;
pub use routed::Routed;
pub use simplified::Simplified;
pub use targets::Targets;
pub use taught::Taught;

/// Compiles one model for one cluster. Networks that exits and variants ask are run by `host`.
pub fn compile(
    model: &Path,
    cluster: &Path,
    options: &Options,
    host: &dyn Host,
    dump: &mut dyn Dump,
) -> Result<Compiled, Failure> {
    let mut clock = Clock::default();
    let targets = Targets::read(cluster, options)?;
    let options = &Options { objective: targets.objective, ..options.clone() };
    clock.lap("cluster");
    let imported = Imported::read(model, options)?.with_input_form(&targets.cluster)?;
    clock.lap("import");
    imported.graph.remarks.iter().for_each(|remark| dump.remark(remark));
    dump.stage("import", &imported.graph);
    let simplified = Simplified::of(imported, &mut clock, dump)?;
    dump.simplified(&simplified.graph, &targets.cluster)?;
    let simplified = simplified.with_states(&options.states, &targets.cluster)?;
    let simplified = simplified.quantized(options, host, &mut clock, dump)?.with_weights(options.weights)?;
    let (taught, study) = Taught::of(simplified, &targets.cluster, options, host, &mut clock)?;
    if taught.exits.is_some() {
        dump.stage("exits", &taught.graph);
    }
    let taught = taught.batched(options.batch, &mut clock)?;
    if options.batch > 1 {
        dump.stage("batch", &taught.graph);
    }
    clock.restart();
    let has_routes = study.is_some() || targets.cluster.survives;
    let changes = options.advise.then(|| advised::changes(&taught, &targets.cluster, options, study.is_some()));
    clock.lap("advice");
    let Linked { taught, placed } = Linked::of(taught, &targets.cluster, options, has_routes, &mut clock)?;
    dump.stage("links", &taught.graph);
    dump::placed(&placed, &taught.graph, &targets.cluster, dump);
    let planned = Planned::of(placed, &targets.cluster, options.batch);
    clock.lap("simulate");
    let routed = match study {
        // Variants are there to keep the limit where the whole network does not.
        Some(study) => Routed::of(planned, study, &taught.graph, &targets.cluster, options, host)?,
        None => {
            Routed::surviving(planned.in_time(&targets.cluster, options)?, &taught.graph, &targets.cluster, options)?
        }
    };
    clock.lap("routes");
    Ok(Compiled { changes, ..Compiled::of(taught, targets, routed, options, clock) })
}

/// Everything behind the passes, for a graph that is already simplified.
pub fn compile_graph(name: String, graph: Graph, cluster: Cluster, options: &Options) -> Result<Compiled, Failure> {
    let mut clock = Clock::default();
    let Linked { taught, placed } =
        Linked::of(Taught::nothing(name, graph), &cluster, options, cluster.survives, &mut clock)?;
    let planned = Planned::of(placed, &cluster, options.batch).in_time(&cluster, options)?;
    clock.lap("simulate");
    let routed = Routed::surviving(planned, &taught.graph, &cluster, options)?;
    Ok(Compiled::of(taught, Targets::given(cluster, options.objective), routed, options, clock))
}

/// Everything behind the partition, for strategies that somebody has chosen.
pub fn compile_partition(
    name: String,
    graph: Graph,
    cluster: Cluster,
    partition: Partition,
) -> Result<Compiled, Failure> {
    let (mut clock, options) = (Clock::default(), Options::default());
    let placed = placement::place(&graph, &cluster, partition, &mut clock)?;
    let planned = Planned::of(placed, &cluster, options.batch);
    clock.lap("simulate");
    let (taught, targets) = (Taught::nothing(name, graph), Targets::given(cluster, options.objective));
    Ok(Compiled::of(taught, targets, Routed::alone(planned), &options, clock))
}
