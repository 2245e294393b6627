//! Single stages run on texts: what file tests and `opt` do.
//!
//! A text is one graph, or sections that begin with a line `-- name`: `cluster` (as in cluster.toml), `graph`, `partition`,
//! `program`, `kernel`, `threads` (a number). Where a partition is wanted and none given, the first device computes everything.

use std::fmt::Display;
use std::path::Path;

use partita::placement::score::Figures;
use partita::placement::survival::{Survivable, survivable};
use partita::placement::{Clock, PlacementOptions, fit};
use partita_config::{Cluster, InstructionSet, WeightStorage, cluster_file};
use partita_ir::graph::text::{Constants, parse, print};
use partita_ir::graph::verify::verify;
use partita_ir::graph::{ElementType, Graph, InputForm};
use partita_ir::text::{ParseError, Reader};
use partita_kernel::{Kernel, split, unroll};
use partita_passes::SIMPLIFY;
use partita_passes::states::Wanted;
use partita_plan::partition::{self, Partition, PartitionOptions, Strategy, StrategyFamily};
use partita_plan::schedule::{self, Schedule};
use partita_plan::shard::{self, Sharded};
use partita_program::emit::model::{KernelsPlace, ModelContext, RouteContext, emit_model, is_object};
use partita_program::emit::{object, rust_source};
use partita_program::memory;
use partita_program::program::{self, Program, lower::Like};

use crate::kernel_budget;

type Run = fn(&Sections<'_>) -> Result<String, String>;

/// Rewrites that a compilation may ask for, and stages behind the passes, by name: what is made of which sections.
pub const STAGES: &[(&str, Run)] = &[
    ("batch", batch_text),
    ("store-weights", store_weights_text),
    ("states", states_text),
    ("input-form", input_form_text),
    ("partition", partition_text),
    ("survival", survival_text),
    ("shard", shard_text),
    ("schedule", schedule_text),
    ("lower", lower_text),
    ("memory", memory_text),
    ("kernel", kernel_text),
    ("split", split_text),
    ("unroll", unroll_text),
    ("emit-kernel", emit_kernel_text),
    ("emit-model", emit_model_text),
];

/// Names of all passes and stages.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = SIMPLIFY.iter().map(|pass| pass.name).collect();
    names.sort_unstable();
    names.dedup();
    names.extend(STAGES.iter().map(|(name, _)| *name));
    names
}

/// Runs one pass or stage on a text.
pub fn run(name: &str, text: &str) -> Result<String, String> {
    let sections = Sections::of(text)?;
    if let Some((_, stage)) = STAGES.iter().find(|(stage, _)| *stage == name) {
        return stage(&sections);
    }
    Ok(print(&pass(name, &sections.graph()?)?, Constants::Summary))
}

/// Runs one pass on a graph.
pub fn pass(name: &str, graph: &Graph) -> Result<Graph, String> {
    let unknown = || format!("there is no pass or stage `{name}`; there are {}", names().join(", "));
    let pass = SIMPLIFY.iter().find(|pass| pass.name == name).ok_or_else(unknown)?;
    let mut after = graph.clone();
    partita_passes::run(std::slice::from_ref(pass), &mut after, &mut |_, _, _| {}).map_err(words)?;
    Ok(after)
}

/// The sections of a text.
pub struct Sections<'a> {
    /// Name, line before the first, and text of each.
    list: Vec<(&'a str, usize, &'a str)>,
}

fn words(error: impl Display) -> String {
    error.to_string()
}

impl<'a> Sections<'a> {
    fn of(text: &'a str) -> Result<Sections<'a>, String> {
        let mut list = Vec::new();
        let mut name = "graph";
        let (mut begin, mut line_before, mut at) = (0, 0, 0);
        for (index, line) in text.split_inclusive('\n').enumerate() {
            if let Some(next) = line.strip_prefix("-- ") {
                if !text[begin..at].trim().is_empty() {
                    list.push((name, line_before, &text[begin..at]));
                }
                (name, line_before, begin) = (next.trim(), index + 1, at + line.len());
            }
            at += line.len();
        }
        list.push((name, line_before, &text[begin..]));
        let known = ["cluster", "graph", "partition", "program", "kernel", "threads"];
        match list.iter().find(|(name, ..)| !known.contains(name)) {
            Some((name, line, _)) => {
                Err(format!("line {line}: there is no section `{name}`; there are {}", known.join(", ")))
            }
            None => Ok(Sections { list }),
        }
    }

    fn find(&self, wanted: &str) -> Option<(usize, &'a str)> {
        self.list.iter().find(|(name, ..)| *name == wanted).map(|(_, line, text)| (*line, *text))
    }

    /// Reads a section; errors have their line of the whole text.
    fn read<T>(&self, wanted: &str, read: impl Fn(&str) -> Result<T, ParseError>) -> Result<T, String> {
        let (before, text) = self.find(wanted).ok_or_else(|| format!("a section `-- {wanted}` is missing"))?;
        read(text).map_err(|error| ParseError { line: error.line + before, ..error }.to_string())
    }

    /// The graph.
    pub fn graph(&self) -> Result<Graph, String> {
        let graph = self.read("graph", parse)?;
        verify(&graph).map_err(words)?;
        let full = print(&graph, Constants::Full);
        let again = parse(&full).map_err(words)?;
        same("graph", &full, &print(&again, Constants::Full))?;
        Ok(graph)
    }

    fn cluster(&self) -> Result<Cluster, String> {
        let (_, text) = self.find("cluster").ok_or("a section `-- cluster` is missing")?;
        let problems = |found: Vec<partita_ir::diagnostic::Diagnostic>| {
            found.iter().map(|problem| problem.to_string()).collect::<Vec<String>>().join("\n")
        };
        cluster_file::parse(text, "cluster.toml", Path::new(".")).map_err(problems)
    }

    fn partition(&self, graph: &Graph, cluster: &Cluster) -> Result<Partition, String> {
        if self.find("partition").is_some() {
            return self.read("partition", |text| partition::text::parse(text, graph, cluster));
        }
        let count = cluster.devices.len();
        let whole =
            |id| Strategy::whole(0, count, graph.node(id).outputs.first().map_or(&[], |result| graph.shape(*result)));
        Ok(Partition::given(graph.node_ids().map(|id| (id, whole(id))).collect()))
    }

    fn kernel(&self) -> Result<Kernel, String> {
        let kernel = self.read("kernel", partita_kernel::text::parse)?;
        kernel_budget::check(&kernel)?;
        partita_kernel::verify::verify(&kernel).map_err(words)?;
        Ok(kernel)
    }
}

/// A text and the text of what was read of it.
fn same(what: &str, text: &str, again: &str) -> Result<(), String> {
    match text == again {
        true => Ok(()),
        false => Err(format!("the text of a {what} is read as something else:\n{text}\nis read as\n{again}")),
    }
}

fn partition_text(sections: &Sections<'_>) -> Result<String, String> {
    let (graph, cluster) = (sections.graph()?, sections.cluster()?);
    let objective = sections.partition(&graph, &cluster)?.objective;
    let options = PartitionOptions::new(objective, StrategyFamily::Auto);
    // How long it took is another number each time.
    let mut found = partition::solve(&graph, &cluster, &options).map_err(words)?;
    found.solve_ms = 0.0;
    let show =
        |partition: &Partition| partition::text::Display { partition, graph: &graph, cluster: &cluster }.to_string();
    let text = show(&found);
    let again = partition::text::parse(&text, &graph, &cluster).map_err(words)?;
    same("partition", &text, &show(&again))?;
    if again != found {
        return Err(format!("a partition is read as another one:\n{text}"));
    }
    Ok(text)
}

/// A plan, what is done about the loss of each device, and the plans that are then taken; without figures of the cost model.
fn survival_text(sections: &Sections<'_>) -> Result<String, String> {
    let (graph, cluster) = (sections.graph()?, sections.cluster()?);
    let options = PlacementOptions::default();
    let placed = fit(&graph, &cluster, &options, &mut Clock::default()).map_err(words)?;
    let figures = Figures::of_schedules(&graph, &cluster, &placed.sharded, &placed.schedules, options.objective);
    let found = survivable(&graph, &cluster, placed, figures.latency_ms, &options).map_err(words)?;
    let Survivable { placed, routes, survival, .. } = found;
    let name = |device: usize| &cluster.devices[device].name;
    let mut lines = Vec::new();
    for (device, why) in &survival.single_points {
        lines.push(format!("without {}: no answer ({})", name(*device), why.word()));
    }
    for loss in &survival.losses {
        let weights = if loss.makes_do { "the weights that are there" } else { "weights of its own" };
        lines.push(format!("without {}: route {}, with {weights}", name(loss.device), loss.route));
    }
    for (program, bytes) in placed.programs.iter().zip(&survival.more_weights_bytes) {
        lines.push(format!("{} holds {bytes} bytes of weights more", name(program.device)));
    }
    let routes = routes.iter().map(|route| (route.name.as_str(), &route.partition));
    for (name, found) in std::iter::once(("whole", &placed.partition)).chain(routes) {
        let Partition { relays, row_streaming, .. } = found.clone();
        let partition = &Partition { relays, row_streaming, ..Partition::given(found.strategies.clone()) };
        lines.push(format!("{name}: {}", partition::text::Display { partition, graph: &graph, cluster: &cluster }));
    }
    Ok(lines.join("\n"))
}

/// Everything up to schedules.
struct Planned {
    graph: Graph,
    cluster: Cluster,
    sharded: Sharded,
    schedules: Vec<Schedule>,
}

fn planned(sections: &Sections<'_>) -> Result<Planned, String> {
    let (graph, cluster) = (sections.graph()?, sections.cluster()?);
    let partition = sections.partition(&graph, &cluster)?;
    let sharded = shard::apply(&graph, &partition, &cluster).map_err(words)?;
    verify(&sharded.graph).map_err(words)?;
    let schedules = schedule::build(&sharded, &cluster).map_err(words)?;
    schedule::check::check(&sharded.graph, &schedules, &cluster).map_err(words)?;
    Ok(Planned { graph, cluster, sharded, schedules })
}

fn batch_text(sections: &Sections<'_>) -> Result<String, String> {
    Ok(print(&partita_passes::batch::batch(&sections.graph()?, 2).map_err(words)?, Constants::Summary))
}

/// In 8 bits.
fn store_weights_text(sections: &Sections<'_>) -> Result<String, String> {
    let mut graph = sections.graph()?;
    partita_passes::store_weights::run(&mut graph, WeightStorage::Int8);
    Ok(print(&graph, Constants::Summary))
}

/// Those that names say.
fn states_text(sections: &Sections<'_>) -> Result<String, String> {
    let mut graph = sections.graph()?;
    partita_passes::states::keep(&mut graph, &[Wanted::ByName]).map_err(words)?;
    Ok(print(&graph, Constants::Summary))
}

/// Of a camera: bytes, channels last.
fn input_form_text(sections: &Sections<'_>) -> Result<String, String> {
    let (mut graph, element) = (sections.graph()?, Some(ElementType::U8));
    let form = InputForm { name: None, element, channels_last: true, mean: vec![128.0], std: vec![64.0] };
    partita_passes::input_form::convert(&mut graph, &form).map_err(words)?;
    Ok(print(&graph, Constants::Summary))
}

fn shard_text(sections: &Sections<'_>) -> Result<String, String> {
    Ok(print(&planned(sections)?.sharded.graph, Constants::Summary))
}

fn schedule_text(sections: &Sections<'_>) -> Result<String, String> {
    let Planned { cluster, sharded, schedules, .. } = planned(sections)?;
    let graph = &sharded.graph;
    let show = |schedules: &[Schedule]| schedule::text::Display { schedules, graph, cluster: &cluster }.to_string();
    let text = show(&schedules);
    let again = schedule::text::parse(&text, graph, &cluster).map_err(words)?;
    same("schedule", &text, &show(&again))?;
    if again != schedules {
        return Err(format!("schedules are read as others:\n{text}"));
    }
    Ok(text)
}

/// Programs, before memory is planned.
fn lowered(planned: &Planned) -> Result<Vec<Program>, String> {
    let lower = |schedule: &Schedule| {
        let device = &planned.cluster.devices[schedule.device];
        program::lower::lower(&planned.sharded.graph, schedule, (&device.target, &device.settings), Like::default())
            .map_err(words)
    };
    planned.schedules.iter().map(lower).collect()
}

/// The text of programs, which must read back.
fn shown(programs: &[Program]) -> Result<String, String> {
    let show = |programs: &[Program], constants: Constants| -> String {
        programs.iter().map(|program| program::text::print(program, constants)).collect()
    };
    let full = show(programs, Constants::Full);
    let again = program::text::parse(&full).map_err(words)?;
    same("program", &full, &show(&again, Constants::Full))?;
    if again != programs {
        return Err(format!("programs are read as others:\n{full}"));
    }
    Ok(show(programs, Constants::Summary))
}

fn lower_text(sections: &Sections<'_>) -> Result<String, String> {
    shown(&lowered(&planned(sections)?)?)
}

/// Programs of the text, or those that its graph is lowered to; with their memory planned.
fn placed(sections: &Sections<'_>) -> Result<Vec<Program>, String> {
    let mut programs = match sections.find("program") {
        Some(_) => sections.read("program", program::text::parse)?,
        None => lowered(&planned(sections)?)?,
    };
    for program in &mut programs {
        for kernel in &program.kernels {
            partita_kernel::verify::verify(kernel).map_err(words)?;
        }
        memory::plan(program, memory::ALIGNMENT_BYTES);
        memory::check(program).map_err(words)?;
    }
    Ok(programs)
}

fn memory_text(sections: &Sections<'_>) -> Result<String, String> {
    shown(&placed(sections)?)
}

fn kernel_text(sections: &Sections<'_>) -> Result<String, String> {
    let programs = lowered(&planned(sections)?)?;
    let kernels = programs.iter().flat_map(|program| &program.kernels);
    kernels.map(checked).collect()
}

/// The text of a kernel, which must read back.
fn checked(kernel: &Kernel) -> Result<String, String> {
    partita_kernel::verify::verify(kernel).map_err(words)?;
    let text = kernel.to_string();
    let again = partita_kernel::text::parse(&text).map_err(words)?;
    same("kernel", &text, &again.to_string())?;
    Ok(text)
}

fn split_text(sections: &Sections<'_>) -> Result<String, String> {
    let mut kernel = sections.kernel()?;
    let threads = sections.read("threads", |text| {
        let mut reader = Reader::new(text);
        reader.next_line();
        reader.count_within(2..=64)
    })?;
    split::split(&mut kernel, threads);
    checked(&kernel)
}

fn unroll_text(sections: &Sections<'_>) -> Result<String, String> {
    checked(&unroll::unroll(&sections.kernel()?))
}

/// Rust source of a kernel, or Cranelift's text, for the cluster's first device.
fn emit_kernel_text(sections: &Sections<'_>) -> Result<String, String> {
    let (cluster, kernel) = (sections.cluster()?, sections.kernel()?);
    let target = &cluster.devices.first().ok_or("the cluster has no device")?.target;
    if kernel.lanes != target.instruction_set.lanes() {
        return Err(format!(
            "target `{}` has {} lanes, the kernel {}",
            target.name,
            target.instruction_set.lanes(),
            kernel.lanes
        ));
    }
    match target.instruction_set {
        InstructionSet::Neon => object::text(&kernel, target).map_err(words),
        instruction_set => rust_source::render(&kernel, instruction_set).map_err(words),
    }
}

/// `model.rs` of every device.
fn emit_model_text(sections: &Sections<'_>) -> Result<String, String> {
    let Planned { graph, cluster, .. } = planned(sections)?;
    let macs = vec![0; cluster.devices.len()];
    let programs = placed(sections)?;
    let routes = vec![RouteContext { name: "the whole network", graph: &graph, macs, programs: &programs }];
    let context = ModelContext { routes, family: None, cluster: &cluster, model: &graph.name, plan_hash: 0 };
    let source = |program: &Program| {
        let emitted = emit_model(&[program], &context, KernelsPlace::Sibling).map_err(words)?;
        let target = &cluster.devices[program.device].target;
        let kernels = if is_object(target) { emitted.kernels_source } else { String::new() };
        Ok(emitted.model_source + &kernels)
    };
    programs.iter().map(source).collect()
}
