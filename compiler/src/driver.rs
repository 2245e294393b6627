//! The compiler on one page: every stage, in order, nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::learned::Learned;
use crate::config::{self, Cluster, WeightStorage};
use crate::diagnostic::Diagnostic;
use crate::emit::family::Family as Choices;
use crate::emit::model::{ModelContext, RouteContext};
use crate::graph::Graph;
pub use crate::options::Options;
use crate::partition::{self, Objective, Partition, StrategyFamily};
use crate::passes::store_weights::Stored;
use crate::placement::routes::unite;
use crate::placement::{self, Placed, internal, plan_file};
pub use crate::placement::{Clock, Failure, Route};
use crate::program::Program;
use crate::schedule::{self, Schedule};
use crate::shard::Sharded;
use crate::shard::patches::PatchReport;
use crate::simulate::{self, Prediction};
use crate::variants::report::VariantsReport;
use crate::{emit, exits, numbers, onnx, passes, variants};

/// Everything decided about one model on one cluster, ready to be written out.
#[derive(Debug)]
pub struct Compiled {
    /// File name of the model without extension.
    pub model_name: String,
    /// The simplified graph.
    pub graph: Graph,
    /// The cluster.
    pub cluster: Cluster,
    /// Who computes what.
    pub partition: Partition,
    /// Family of strategies that was allowed.
    pub family: StrategyFamily,
    /// Samples that are answered together.
    pub batch: usize,
    /// Matrix products whose weights are stored in fewer bytes.
    pub stored: Vec<Stored>,
    /// Measurements and records that corrected it.
    pub learned: Vec<Learned>,
    /// What is known of its exits, if it has been given any.
    pub exits: Option<exits::ExitsReport>,
    /// What is known of its variants, if they were asked for.
    pub variants: Option<VariantsReport>,
    /// The network of each variant, in the order of the report; the first is the whole one.
    pub variant_graphs: Vec<Graph>,
    /// The graph of shards, each on one device.
    pub sharded: Sharded,
    /// What will happen.
    pub prediction: Prediction,
    /// One per device that takes part.
    pub schedules: Vec<Schedule>,
    /// One per schedule.
    pub programs: Vec<Program>,
    /// What is computed patch by patch.
    pub patches: Vec<PatchReport>,
    /// Smaller ways through the network, over the same weights.
    pub routes: Vec<Route>,
    /// When each route is taken, if there are several; the first is everything above.
    pub choices: Option<Choices>,
    /// The plan file.
    pub plan_bytes: Vec<u8>,
    /// First eight bytes of the plan's digest.
    pub plan_hash: u64,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
    /// Time of each stage in ms, by name.
    pub times_ms: BTreeMap<String, f64>,
}

/// Names of the stages whose text can be seen, in order, each once.
pub fn stages() -> Vec<&'static str> {
    let passes = passes::SIMPLIFY.iter().map(|pass| pass.name);
    let behind = ["exits", "batch", "partition", "shard", "schedule", "program"];
    let mut names: Vec<&str> = Vec::new();
    for name in std::iter::once("import").chain(passes).chain(behind) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Looks on while a model is compiled.
pub trait Dump {
    /// Called after the stage `name`; text that is not wanted is not rendered.
    fn stage(&mut self, name: &str, text: &dyn std::fmt::Display);

    /// Called once the model is known, before anything that takes long: the last moment to find that data do not fit.
    fn simplified(&mut self, _graph: &Graph, _cluster: &Cluster) -> Result<(), Failure> {
        Ok(())
    }

    /// Something that is no error, but that the user should know.
    fn remark(&mut self, _remark: &Diagnostic) {}
}

impl Dump for () {
    fn stage(&mut self, _name: &str, _text: &dyn std::fmt::Display) {}
}

/// Compiles one model for one cluster. Stages appear here in execution order and nowhere else.
pub fn compile(model: &Path, cluster: &Path, options: &Options, dump: &mut dyn Dump) -> Result<Compiled, Failure> {
    let mut clock = Clock::default();
    let cluster_path = cluster;
    let mut cluster = config::cluster_file::read(cluster_path)?;
    for device in &cluster.devices {
        if let Some(lacking) = emit::model::lacks(&device.target) {
            let what = "this build of the compiler makes no programs for";
            let (name, target) = (&device.name, &device.target.name);
            return Err(Failure::Environment(anyhow::anyhow!("{what} `{name}` ({target}): build it with {lacking}")));
        }
    }
    let measured = options.measured.clone().unwrap_or_else(|| config::measured::default_path(cluster_path));
    let corrected = config::measured::apply(&mut cluster, &measured, options.measured.is_some())?;
    let mut learned: Vec<Learned> = corrected.into_iter().collect();
    let tuned = options.tuned.clone().unwrap_or_else(|| config::tuned::default_path(cluster_path));
    match options.trial {
        Some(_) => config::tuned::try_way(&mut cluster, options.trial),
        None => {
            let record = config::tuned::read(&tuned, options.tuned.is_some())?;
            config::tuned::apply(&mut cluster, &record);
            let used = cluster.devices.iter().any(|device| !device.target.tuning.choices.is_empty());
            learned.extend(used.then(|| Learned::of("tuning record", &tuned, record.origin.as_ref())));
        }
    }
    // An earlier plan says itself what it is good at; what it predicts depends on it.
    let objective = match &options.plan {
        Some(path) => plan_file::read_objective(path)?,
        None => options.objective,
    };
    if options.exact || objective == Objective::Memory {
        cluster.devices.iter_mut().for_each(|device| device.target.minimal_filtering = false);
    }
    clock.lap("cluster");
    let mut graph =
        onnx::import(model, &onnx::ImportOptions { shapes: options.shapes.clone(), fixed: options.fixed.clone() })?;
    let mut warnings: Vec<Diagnostic> = numbers::of_constants(&graph).into_iter().collect();
    clock.lap("import");
    graph.remarks.iter().for_each(|remark| dump.remark(remark));
    dump.stage("import", &graph);
    passes::run(passes::SIMPLIFY, &mut graph, &mut |pass, graph, time| {
        clock.record(pass.name, time.as_secs_f64() * 1e3);
        dump.stage(pass.name, graph);
    })
    .map_err(internal)?;
    dump.simplified(&graph, &cluster)?;
    warnings.extend(numbers::of_sums(&graph));
    let stored = passes::store_weights::run(&mut graph, options.weights);
    if options.weights != WeightStorage::F32 && stored.is_empty() {
        return Err(nothing_to_store(options.weights));
    }
    cluster.devices.iter_mut().for_each(|device| device.target.weight_storage = options.weights);
    let mut study = None;
    if let Some(wanted) = &options.variants {
        clock.restart();
        study = Some(variants::study(&graph, wanted, &cluster, options)?);
        clock.lap("variants");
    }
    let mut report = None;
    if let Some(wanted) = &options.exits {
        clock.restart();
        report = Some(exits::add(&mut graph, wanted, &cluster, options)?);
        clock.lap("exits");
        dump.stage("exits", &graph);
    }
    if options.batch > 1 {
        clock.restart();
        graph = passes::batch::batch(&graph, options.batch).map_err(|error| no_batch(&error, options.batch))?;
        clock.lap("batch");
        dump.stage("batch", &graph);
    }
    let model_name = model.file_stem().map_or_else(|| "model".to_string(), |stem| stem.to_string_lossy().into_owned());
    let mut compiled = compile_graph(model_name, graph, cluster, options, clock, dump)?;
    compiled.exits = report;
    compiled.stored = stored;
    compiled.learned = learned;
    compiled.warnings.splice(0..0, warnings);
    if let Some(study) = study {
        let mut clock = Clock::default();
        compiled.variants = Some(variants::routes::add(&mut compiled, study, options)?);
        if compiled.choices.is_some() {
            compiled.write_plan();
        }
        clock.lap("routes");
        compiled.times_ms.append(&mut clock.into_times_ms());
    }
    Ok(compiled)
}

/// Everything behind the passes, for a graph that is already simplified.
pub fn compile_graph(
    model_name: String,
    graph: Graph,
    cluster: Cluster,
    options: &Options,
    mut clock: Clock,
    dump: &mut dyn Dump,
) -> Result<Compiled, Failure> {
    clock.restart();
    let placed = placement::fit(&graph, &cluster, &options.placement(), &mut clock)?;
    let compiled = finish(model_name, graph, cluster, placed, options, clock, dump)?;
    // Variants are there to keep the limit where the whole network does not.
    if options.variants.is_none() {
        check_latency(&compiled, options)?;
    }
    Ok(compiled)
}

/// Everything behind the partition, for strategies that somebody has chosen.
pub fn compile_partition(
    model_name: String,
    graph: Graph,
    cluster: Cluster,
    partition: Partition,
) -> Result<Compiled, Failure> {
    let mut clock = Clock::default();
    let placed = placement::place(&graph, &cluster, partition, &mut clock)?;
    finish(model_name, graph, cluster, placed, &Options::default(), clock, &mut ())
}

/// From programs to a plan.
fn finish(
    model_name: String,
    graph: Graph,
    cluster: Cluster,
    placed: Placed,
    options: &Options,
    mut clock: Clock,
    dump: &mut dyn Dump,
) -> Result<Compiled, Failure> {
    let Placed { partition, sharded, schedules, programs, patches } = placed;
    dump.stage("partition", &partition::text::Display { partition: &partition, graph: &graph, cluster: &cluster });
    dump.stage("shard", &sharded.graph);
    dump.stage(
        "schedule",
        &schedule::text::Display { schedules: &schedules, graph: &sharded.graph, cluster: &cluster },
    );
    for program in &programs {
        dump.stage("program", program);
    }
    let mut prediction = simulate::simulate(&sharded, &schedules, &cluster);
    prediction.throughput_hz *= options.batch as f64;
    clock.lap("simulate");
    let mut compiled = Compiled {
        model_name,
        graph,
        cluster,
        partition,
        family: options.family,
        batch: options.batch,
        stored: Vec::new(),
        learned: Vec::new(),
        exits: None,
        variants: None,
        variant_graphs: Vec::new(),
        sharded,
        prediction,
        schedules,
        programs,
        patches,
        routes: Vec::new(),
        choices: None,
        plan_bytes: Vec::new(),
        plan_hash: 0,
        warnings: Vec::new(),
        times_ms: BTreeMap::new(),
    };
    compiled.write_plan();
    clock.lap("plan");
    compiled.times_ms = clock.into_times_ms();
    Ok(compiled)
}

fn nothing_to_store(storage: WeightStorage) -> Failure {
    let message = format!(
        "--weights {} would change nothing: no matrix product of the model has constant weights that fit",
        storage.name()
    );
    let help = "leave --weights out; convolutions keep their weights in 32 bits";
    Failure::Input(vec![Diagnostic::new("E0143", message).help(help)])
}

fn no_batch(error: &passes::batch::BatchError, samples: usize) -> Failure {
    let diagnostic =
        Diagnostic::new("E0142", format!("--batch {samples}: {}", crate::diagnostic::printable(&error.to_string())));
    Failure::Input(vec![diagnostic.help("leave --batch out; samples are then answered one by one")])
}

fn check_latency(compiled: &Compiled, options: &Options) -> Result<(), Failure> {
    let latency_ms = compiled.prediction.latency_ms;
    let limits =
        [("--max-latency", options.max_latency_ms), ("max_latency of the cluster", compiled.cluster.max_latency_ms)];
    match limits.into_iter().find_map(|(who, limit)| Some((who, limit.filter(|limit| latency_ms > *limit)?))) {
        Some((who, limit)) => Err(Failure::Infeasible(
            Diagnostic::new("E0172", format!("the fastest plan takes {latency_ms:.3} ms, but {who} is {limit} ms"))
                .help("allow more time, use faster devices or links, or let the network shrink (--variants auto)"),
        )),
        None => Ok(()),
    }
}

impl Compiled {
    /// Multiply-adds of each device of the cluster.
    pub fn device_macs(&self) -> Vec<u64> {
        device_macs(&self.sharded, &self.cluster)
    }

    /// As a smaller way through another network.
    pub fn into_route(self, name: String) -> Route {
        let Compiled { graph, partition, sharded, programs, .. } = self;
        Route { name, graph, partition, sharded, programs }
    }

    /// Adds routes whose programs stand in the order of this one's; all programs of a device then share their weights.
    /// Whoever feeds inputs says which route is taken.
    pub fn add_routes(&mut self, routes: Vec<Route>) {
        self.routes = routes;
        self.choices = unite(&mut self.programs, &mut self.routes, &self.cluster);
    }

    /// Writes down what is decided so far.
    fn write_plan(&mut self) {
        let decided = plan_file::Decided {
            graph: &self.graph,
            cluster: &self.cluster,
            partition: &self.partition,
            prediction: &self.prediction,
            programs: &self.programs,
            routes: &self.routes,
            conditions: self.choices.as_ref().map_or(&[], |choices| &choices.conditions),
        };
        self.plan_bytes = plan_file::write(&decided);
        self.plan_hash = plan_file::plan_hash(&self.plan_bytes);
    }

    /// Programs of the device at this position among [`Compiled::programs`], one per route.
    pub fn device_programs(&self, position: usize) -> Vec<&Program> {
        let further = self.routes.iter().map(|route| &route.programs[position]);
        std::iter::once(&self.programs[position]).chain(further).collect()
    }

    /// What emitted text needs to know.
    pub fn model_context(&self) -> ModelContext<'_> {
        let whole = RouteContext { name: "the whole network", graph: &self.graph, macs: self.device_macs() };
        let further = self.routes.iter().map(|route| RouteContext {
            name: &route.name,
            graph: &route.graph,
            macs: device_macs(&route.sharded, &self.cluster),
        });
        ModelContext {
            routes: std::iter::once(whole).chain(further).collect(),
            family: self.choices.as_ref(),
            cluster: &self.cluster,
            model: &self.model_name,
            plan_hash: self.plan_hash,
        }
    }
}

fn device_macs(sharded: &Sharded, cluster: &Cluster) -> Vec<u64> {
    let mut macs = vec![0; cluster.devices.len()];
    for (node, device) in &sharded.devices {
        macs[*device] += partition::cost::node_macs(&sharded.graph, *node);
    }
    macs
}
