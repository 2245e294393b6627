//! The compiler on one page: every stage, in order, nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::{Arguments, StrategyName};
use crate::config::learned::Learned;
use crate::config::{self, Cluster, WeightStorage};
use crate::diagnostic::Diagnostic;
use crate::emit::family::Family as Choices;
use crate::emit::model::{ModelContext, RouteContext};
use crate::graph::Graph;
use crate::partition::{self, Objective, Partition, StrategyFamily};
use crate::passes::store_weights::Stored;
use crate::placement::{self, Placed};
use crate::program::{self, Program};
use crate::schedule::{self, Schedule};
use crate::shard::Sharded;
use crate::shard::patches::PatchReport;
use crate::simulate::{self, Prediction};
use crate::variants::report::VariantsReport;
use crate::{emit, exits, numbers, onnx, passes, plan, variants};

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

/// A smaller way through the network.
#[derive(Debug)]
pub struct Route {
    /// Name, for readers.
    pub name: String,
    /// The network that it computes.
    pub graph: Graph,
    /// Who computes what.
    pub partition: Partition,
    /// The graph of shards.
    pub sharded: Sharded,
    /// One per program of the whole network, in the same order; a device may have nothing to do.
    pub programs: Vec<Program>,
}

/// Why there is no result, by exit status.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The model or the cluster is at fault: exit status 1.
    #[error("{}", join(.0))]
    Input(Vec<Diagnostic>),
    /// Nothing satisfies the limits: exit status 3.
    #[error("{0}")]
    Infeasible(Diagnostic),
    /// The emitted programs compute something else: exit status 4.
    #[error("{0}")]
    Difference(Diagnostic),
    /// The machine does not let us (files, cargo, processes): exit status 1.
    #[error("error: {0:#}")]
    Environment(anyhow::Error),
    /// A bug of ours: exit status 70.
    #[error(
        "internal error: {0:#}\n  = note: this is a bug in Partita, not in your model; please report it with the command line"
    )]
    Internal(anyhow::Error),
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(diagnostics: Vec<Diagnostic>) -> Failure {
        Failure::Input(diagnostics)
    }
}

fn join(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}

/// What a compilation needs to be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shapes of inputs, by name.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Values of inputs that are constants from now on, by name.
    pub fixed: Vec<(String, String)>,
    /// Samples that are answered together.
    pub batch: usize,
    /// What to minimise.
    pub objective: Objective,
    /// Allowed strategies.
    pub family: StrategyFamily,
    /// Convolve without minimal filtering.
    pub exact: bool,
    /// How the weights of matrix products are stored.
    pub weights: WeightStorage,
    /// Refuse slower plans.
    pub max_latency_ms: Option<f64>,
    /// Strategies of an earlier plan.
    pub plan: Option<PathBuf>,
    /// Exits to add.
    pub exits: Option<exits::ExitOptions>,
    /// Smaller ways through the network.
    pub variants: Option<variants::VariantOptions>,
    /// Measurements that correct the cost model; those beside the cluster file unless given.
    pub measured: Option<PathBuf>,
    /// Which kernels are best; the record beside the cluster file unless given.
    pub tuned: Option<PathBuf>,
    /// Try this way of every convolution instead.
    pub trial: Option<usize>,
}

impl Default for Options {
    /// The best plan for least latency, one sample at a time.
    fn default() -> Options {
        Options {
            shapes: Vec::new(),
            fixed: Vec::new(),
            batch: 1,
            objective: Objective::Latency,
            family: StrategyFamily::Auto,
            exact: false,
            weights: WeightStorage::F32,
            max_latency_ms: None,
            plan: None,
            exits: None,
            variants: None,
            measured: None,
            tuned: None,
            trial: None,
        }
    }
}

impl Options {
    /// The options among the command line's arguments.
    pub fn of(arguments: &Arguments) -> Options {
        Options {
            shapes: arguments.shapes.clone(),
            fixed: arguments.fixed.clone(),
            batch: arguments.batch,
            objective: arguments.objective,
            family: match arguments.strategy {
                StrategyName::Auto => StrategyFamily::Auto,
                StrategyName::Whole => StrategyFamily::Whole,
                StrategyName::Pipeline => StrategyFamily::Pipeline,
                StrategyName::Lop => StrategyFamily::Lop,
                StrategyName::Lip => StrategyFamily::Lip,
                StrategyName::Fused => StrategyFamily::Fused,
                StrategyName::Ftp => StrategyFamily::Ftp,
                StrategyName::Spatial => StrategyFamily::Spatial,
                StrategyName::Batch => StrategyFamily::Batch,
            },
            exact: arguments.exact,
            weights: arguments.weights,
            max_latency_ms: arguments.max_latency,
            plan: arguments.plan.clone(),
            exits: exits::ExitOptions::of(arguments),
            variants: variants::VariantOptions::of(arguments),
            measured: arguments.measured.clone(),
            tuned: arguments.tuned.clone(),
            trial: None,
        }
    }
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
        Some(path) => plan::read_objective(path)?,
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
        plan::add_routes(&mut compiled);
        clock.lap("routes");
        compiled.times_ms.append(&mut clock.times_ms);
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
    let placed = placement::fit(&graph, &cluster, options, &mut clock)?;
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
    let plan_bytes = plan::write(&graph, &cluster, &partition, &prediction, &programs);
    let plan_hash = plan::plan_hash(&plan_bytes);
    clock.lap("plan");
    Ok(Compiled {
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
        plan_bytes,
        plan_hash,
        warnings: Vec::new(),
        times_ms: clock.times_ms,
    })
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

/// A bug of ours.
pub(crate) fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Internal(error.into())
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

/// Times of stages.
pub struct Clock {
    since: Instant,
    times_ms: BTreeMap<String, f64>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { since: Instant::now(), times_ms: BTreeMap::new() }
    }
}

impl Clock {
    /// Adds the time since the last lap to a stage.
    pub(crate) fn lap(&mut self, name: &str) {
        let time_ms = self.since.elapsed().as_secs_f64() * 1e3;
        self.record(name, time_ms);
        self.restart();
    }

    fn record(&mut self, name: &str, time_ms: f64) {
        *self.times_ms.entry(name.to_string()).or_insert(0.0) += time_ms;
    }

    fn restart(&mut self) {
        self.since = Instant::now();
    }
}

impl Failure {
    /// The same for programs: `{"schema": 1, "errors": [{"code", "message", "notes", "help"}], "status"}`.
    pub fn to_json(&self) -> serde_json::Value {
        let plain = |code: &str, message: String| serde_json::json!({"code": code, "message": message});
        let one = |diagnostic: &Diagnostic| {
            serde_json::json!({
                "code": diagnostic.code,
                "message": diagnostic.message,
                "notes": diagnostic.notes,
                "help": diagnostic.help,
            })
        };
        let errors: Vec<serde_json::Value> = match self {
            Failure::Input(diagnostics) => diagnostics.iter().map(one).collect(),
            Failure::Infeasible(diagnostic) | Failure::Difference(diagnostic) => vec![one(diagnostic)],
            Failure::Environment(error) => vec![plain("environment", format!("{error:#}"))],
            Failure::Internal(error) => vec![plain("internal", format!("{error:#}"))],
        };
        serde_json::json!({"schema": crate::bundle::report::SCHEMA, "errors": errors, "status": self.exit_status()})
    }

    /// The failure that an error has carried along; otherwise the machine is at fault.
    pub fn of(error: anyhow::Error) -> Failure {
        error.downcast::<Failure>().unwrap_or_else(Failure::Environment)
    }

    /// The process's exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Failure::Input(_) | Failure::Environment(_) => 1,
            Failure::Infeasible(_) => 3,
            Failure::Difference(_) => 4,
            Failure::Internal(_) => 70,
        }
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
        if routes.is_empty() {
            return;
        }
        self.routes = routes;
        for position in 0..self.programs.len() {
            let further = self.routes.iter_mut().map(|route| &mut route.programs[position]);
            program::family::unite(
                &mut std::iter::once(&mut self.programs[position]).chain(further).collect::<Vec<_>>(),
            );
        }
        let names = std::iter::once("whole").chain(self.routes.iter().map(|route| route.name.as_str()));
        let devices: Vec<usize> = self.programs.iter().map(|program| program.device).collect();
        self.choices = Some(Choices::new(names.map(str::to_string).collect(), &self.cluster, &devices));
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
