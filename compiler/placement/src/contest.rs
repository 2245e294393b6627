//! Plans that compete: the optimum of the sum of steps for the cluster, for every useful part of it, of every family of
//! strategies, by the objective and by others, and every device alone. The best by the figures that are reported is
//! taken, so no answer is worse than any of these.
//!
//! What the optimisation minimises adds up over nodes and travel; where devices work at the same time, or share media,
//! the simulation knows better.

mod ahead;
mod certificate;
mod contender;
mod overlap;
mod parts;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use self::ahead::{Ahead, Answers};
pub use self::contender::Contender;
use self::contender::{Weakened, working_devices};
use crate::score::{Figures, Rank};
use partita_config::{Cluster, System};
use partita_ir::graph::{Graph, NodeId};
use partita_plan::partition::bound::Bounds;
use partita_plan::partition::encodings::Encodings;
use partita_plan::partition::subsets::{closed, representatives, subsets};
use partita_plan::partition::{
    Effort, Further, Objective, Partition, PartitionError, PartitionOptions, Strategy, StrategyFamily, Weights,
    device_subset, limits, solve_also,
};

/// Families whose plans compete with the best of all strategies together.
const FAMILIES: [StrategyFamily; 6] = [
    StrategyFamily::Lop,
    StrategyFamily::Lip,
    StrategyFamily::Fused,
    StrategyFamily::Ftp,
    StrategyFamily::Spatial,
    StrategyFamily::Batch,
];

/// Objectives whose plans compete whatever the objective: what one finds may be better in another's figure.
const OBJECTIVES: [Objective; 5] = [
    Objective::Latency,
    Objective::Weighted(Weights { latency: 1.0, traffic: 1.0, energy: 0.0 }),
    Objective::Weighted(Weights { latency: 1.0, traffic: 10.0, energy: 0.0 }),
    Objective::Traffic,
    Objective::Energy,
];

/// Parts of a cluster for which a search within limits on memory is made, where the best without limits does not fit.
const LIMITED_SEARCHES: usize = 4;

/// Nodes and devices up to which it is made for all of them.
const SMALL: (usize, usize) = (40, 6);

/// Networks with more nodes than this are asked few questions: each takes a second or more.
const MANY_NODES: usize = 2_000;

/// A device with so many times what a model needs holds whatever a plan gives it.
const ROOMY: u64 = 3;

/// How many plans compete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Breadth {
    /// All: for the plan that is taken.
    All,
    /// The best of the whole cluster, two families, and every device alone: for one of very many networks, of which one is
    /// planned again.
    Few,
}

/// A question: which devices, and what is asked of them.
#[derive(Clone, Debug)]
pub struct Question {
    /// Devices that may take part, ascending.
    devices: Vec<usize>,
    /// What is asked, of these devices; none for a plan that is the only one of its kind.
    options: Option<PartitionOptions>,
}

/// All of them.
pub struct Contest<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    wanted: PartitionOptions,
    breadth: Breadth,
    /// Whether the best were tried with tensors that travel while devices compute.
    overlapped: bool,
    questions: Vec<Question>,
    contenders: Vec<Contender>,
    /// Plans that have been seen, and what they come to.
    seen: HashMap<u64, Figures>,
    /// Least sum of steps that any question was proven to have, and whether that is proven for every question.
    least_sum: Option<f64>,
    all_proven: bool,
    /// What no plan can beat.
    pub bounds: Bounds,
    /// What the fastest device comes to by itself.
    pub single: Option<Figures>,
    count: usize,
    solve_ms: f64,
    /// Why the question itself has no answer, where only other plans may fit.
    pub refused: Option<PartitionError>,
}

impl<'a> Contest<'a> {
    /// Asks everything. An error if nothing answers.
    pub fn new(
        graph: &'a Graph,
        cluster: &'a Cluster,
        wanted: &PartitionOptions,
        breadth: Breadth,
    ) -> Result<Contest<'a>, PartitionError> {
        let begin = Instant::now();
        let mut contest = Contest {
            graph,
            cluster,
            wanted: wanted.clone(),
            // What devices hold already is asked of very many networks, and by several objectives each.
            breadth: if wanted.resident.is_some() || graph.node_count() > MANY_NODES { Breadth::Few } else { breadth },
            overlapped: false,
            questions: Vec::new(),
            contenders: Vec::new(),
            seen: HashMap::new(),
            least_sum: None,
            all_proven: true,
            bounds: Bounds::new(graph, cluster),
            single: None,
            count: 0,
            solve_ms: 0.0,
            refused: None,
        };
        let refused = contest.ask_all();
        contest.solve_ms = begin.elapsed().as_secs_f64() * 1e3;
        match refused {
            Some(error) if contest.contenders.is_empty() => Err(error),
            refused => Ok(Contest { refused, ..contest }),
        }
    }

    fn rank(&self, figures: &Figures) -> Rank {
        figures.rank(self.wanted.objective, self.wanted.max_latency_ms)
    }

    /// The best.
    pub fn best(&self) -> Option<&Contender> {
        self.contenders.iter().min_by_key(|contender| contender.rank)
    }

    /// Takes the best out.
    pub fn pop(&mut self) -> Option<Contender> {
        let best = (0..self.contenders.len()).min_by_key(|at| self.contenders[*at].rank)?;
        Some(self.contenders.swap_remove(best))
    }

    /// Puts a contender back, with what it really comes to; says whether it is still the best.
    pub fn put_back(&mut self, contender: Contender, figures: Figures) -> bool {
        let rank = (self.rank(&figures), contender.rank.1);
        let is_best = self.contenders.iter().all(|other| rank <= other.rank);
        self.contenders.push(Contender { figures, rank, ..contender });
        is_best
    }

    /// Puts a contender back that sends nothing but this in fewer bytes, with what it comes to then, and what it `now` does.
    pub fn weaken(&mut self, contender: Contender, now: Encodings, encodings: Encodings) {
        let wanted = PartitionOptions { encodings: Arc::new(encodings), ..self.wanted.clone() };
        let Some(figures) = Figures::of_encoded(self.graph, self.cluster, &contender.partition, &wanted) else {
            return;
        };
        let rank = (self.rank(&figures), contender.rank.1);
        let (first, times) = match &contender.weakened {
            Some(before) => (before.first.clone(), before.times + 1),
            None => (Arc::new(now), 1),
        };
        let weakened = Some(Weakened { encodings: wanted.encodings, first, times });
        self.contenders.push(Contender { figures, rank, weakened, ..contender });
    }

    /// Asks the question of a contender again, with so much more of each device's memory kept free; says whether that is
    /// worth anything.
    pub fn ask_again(&mut self, contender: &Contender, excess_bytes: &[u64]) -> bool {
        let Question { devices, options } = self.questions[contender.question].clone();
        let Some(mut options) = options else { return false };
        let excess: Vec<u64> = devices.iter().map(|device| excess_bytes[*device]).collect();
        options.reserve_bytes.resize(devices.len(), 0);
        let hopeless = options
            .reserve_bytes
            .iter()
            .zip(&excess)
            .any(|(reserve, excess)| *reserve > 0 && *excess > 0 && *reserve > 64 * *excess);
        if hopeless {
            return false;
        }
        for (reserve, excess) in options.reserve_bytes.iter_mut().zip(excess) {
            *reserve += excess + excess / 8;
        }
        let before = self.contenders.len();
        // Only the question itself: what else the same tables said had other limits.
        let refused = self.ask(devices, options, &[]).is_some();
        !refused && self.contenders.len() > before
    }

    /// The main question first; its refusal is everybody's.
    fn ask_all(&mut self) -> Option<PartitionError> {
        let family = self.wanted.family;
        let everyone: Vec<usize> = (0..self.cluster.devices.len()).collect();
        let wanted = self.wanted.clone();
        let auto = family == StrategyFamily::Auto;
        if family == StrategyFamily::Whole {
            let refused = solve_also(self.graph, self.cluster, &wanted, &[]).0.err();
            self.singles(true);
            return refused;
        }
        let further = self.further(family);
        // Parts of a cluster are many: they are asked by the objectives that count only.
        let common: Vec<Further> =
            further.iter().filter(|further| self.is_common(further.family, further.objective)).copied().collect();
        let smallest = if auto { 1 } else { 2 };
        let mut parts = match self.breadth {
            Breadth::All if family != StrategyFamily::Pipeline => subsets(self.cluster),
            _ => Vec::new(),
        };
        parts.retain(|devices| devices.len() >= smallest);
        let effort = if auto { Effort::Full } else { Effort::Part };
        let options = PartitionOptions { effort, ..wanted.clone() };
        let main = Question { devices: everyone.clone(), options: Some(options.clone()) };
        let mut ahead = Ahead::default();
        self.ask_ahead(&mut ahead, (&main, &further), &parts, &common);
        let answers = ahead.take(&everyone).unwrap_or_else(|| self.answers(&everyone, &options, &further));
        let refused = self.enter_answers(everyone.clone(), options, answers);
        self.singles(auto);
        if self.breadth == Breadth::Few || family == StrategyFamily::Pipeline {
            return refused;
        }
        if auto {
            for family in FAMILIES.into_iter().chain([StrategyFamily::Pipeline]) {
                let answered = self.seen_family(&everyone, family);
                if !answered {
                    let options = PartitionOptions { family, effort: Effort::Part, ..wanted.clone() };
                    self.ask(everyone.clone(), options, &[]);
                }
            }
        }
        let mut limited = Vec::new();
        // Where the best of now may not fit, nobody is too slow to be asked.
        let room_for_all = self.cluster.devices.iter().all(|device| {
            limits::ram_bytes(device).min(limits::flash_bytes(device))
                > ROOMY * (self.weights_bytes() + self.largest_bytes())
        });
        for (at, devices) in parts.iter().enumerate() {
            if self.ask_part(devices, &common, room_for_all, (&mut ahead, &parts[at..])) && auto {
                limited.push(devices.clone());
            }
        }
        if auto {
            self.ask_neighbours(&further, &common, room_for_all);
        }
        let small = self.graph.node_count() <= SMALL.0 && self.cluster.devices.len() <= SMALL.1;
        let searches = if small { limited.len() } else { LIMITED_SEARCHES };
        self.all_proven &= limited.len() <= searches;
        for devices in limited.into_iter().take(searches) {
            let options = PartitionOptions { effort: Effort::Part, ..wanted.restricted(&devices) };
            self.all_proven &= self.ask(devices, options, &[]).is_none();
        }
        refused
    }

    /// Whether every part of a cluster is asked for plans of a family by an objective.
    fn is_common(&self, family: StrategyFamily, objective: Objective) -> bool {
        let wanted = self.wanted.objective;
        match family {
            _ if family == self.wanted.family => objective == wanted || objective == Objective::Latency,
            StrategyFamily::Pipeline => wanted == Objective::Throughput,
            _ => true,
        }
    }

    /// What else the tables of a question are asked: all strategies by other objectives, and other families by those that
    /// the objective is made of.
    fn further(&self, family: StrategyFamily) -> Vec<Further> {
        let objective = self.wanted.objective;
        let adds_up = !matches!(objective, Objective::Throughput | Objective::Memory);
        let own = Some(objective).filter(|own| adds_up && !OBJECTIVES.contains(own));
        let of = |family: StrategyFamily, objectives: &[Objective]| -> Vec<Further> {
            own.iter().chain(objectives).map(|objective| Further { family, objective: *objective }).collect()
        };
        if self.breadth == Breadth::Few {
            if family != StrategyFamily::Auto {
                return Vec::new();
            }
            let families = [StrategyFamily::Ftp, StrategyFamily::Spatial].into_iter();
            return families.map(|family| Further { family, objective }).filter(|_| adds_up).collect();
        }
        let parts: &[Objective] = match objective {
            Objective::Weighted(_) => &[Objective::Latency, Objective::Traffic, Objective::Energy],
            Objective::Traffic => &[Objective::Latency, Objective::Traffic],
            Objective::Energy => &[Objective::Latency, Objective::Energy],
            Objective::Latency | Objective::Throughput | Objective::Memory => &[Objective::Latency],
        };
        let mut found = of(family, if family == StrategyFamily::Auto { &OBJECTIVES } else { parts });
        if family == StrategyFamily::Auto {
            found.extend(FAMILIES.into_iter().flat_map(|family| of(family, parts)));
        }
        found.retain(|further| *further != Further { family, objective });
        found
    }

    fn seen_family(&self, devices: &[usize], family: StrategyFamily) -> bool {
        self.questions.iter().any(|question| {
            question.devices == devices
                && question
                    .options
                    .as_ref()
                    .is_some_and(|options| options.family == family && options.objective == self.wanted.objective)
        })
    }

    /// Whether a part of the cluster is too slow for any of its plans to be the best.
    fn cannot_win(&self, devices: &[usize]) -> bool {
        if self.wanted.max_latency_ms.is_some() && self.wanted.objective != Objective::Latency {
            return false;
        }
        let best = self.contenders.iter().map(|contender| contender.figures.price(self.wanted.objective));
        self.least(devices) >= best.fold(f64::INFINITY, f64::min)
    }

    /// Asks one question; the refusal, if there is no answer.
    fn ask(&mut self, devices: Vec<usize>, options: PartitionOptions, further: &[Further]) -> Option<PartitionError> {
        let answers = self.answers(&devices, &options, further);
        self.enter_answers(devices, options, answers)
    }

    /// What one question is answered with.
    fn answers(&self, devices: &[usize], options: &PartitionOptions, further: &[Further]) -> Answers {
        if devices.len() == self.cluster.devices.len() {
            return solve_also(self.graph, self.cluster, options, further);
        }
        solve_also(self.graph, &device_subset::restricted(self.cluster, devices), options, further)
    }

    /// Lets the answers to a question compete; the refusal, if there is none.
    fn enter_answers(
        &mut self,
        devices: Vec<usize>,
        options: PartitionOptions,
        (found, others): Answers,
    ) -> Option<PartitionError> {
        let refused = match found {
            Ok(found) => {
                self.note_bound(&found, &options);
                self.question(&devices, options.clone(), found);
                None
            }
            Err(error) => Some(error),
        };
        for (Further { family, objective }, partition) in others {
            self.question(&devices, PartitionOptions { family, objective, ..options.clone() }, partition);
        }
        refused
    }

    /// The least sum of steps of the strategies that are asked for.
    fn note_bound(&mut self, found: &Partition, options: &PartitionOptions) {
        if options.objective != self.wanted.objective || options.family != self.wanted.family {
            return;
        }
        let Some(sum) = found.sum else { return };
        let least = sum * (1.0 - found.gap);
        self.least_sum = Some(self.least_sum.map_or(least, |known| known.min(least)));
        self.all_proven &= found.optimal;
    }

    fn question(&mut self, devices: &[usize], options: PartitionOptions, found: Partition) {
        let all = devices.len() == self.cluster.devices.len();
        let partition = if all { found } else { device_subset::widened(found, devices, self.cluster.devices.len()) };
        self.questions.push(Question { devices: devices.to_vec(), options: Some(options) });
        self.enter(partition);
    }

    /// Bytes of all constants.
    fn weights_bytes(&self) -> u64 {
        let graph = self.graph;
        let read = graph.tensor_ids().filter(|tensor| graph.value(*tensor).is_some() && graph.is_read(*tensor));
        read.map(|tensor| graph.tensor_type(tensor).size_bytes() as u64).sum()
    }

    /// Bytes of what a node reads and makes, of the node where it is most.
    fn largest_bytes(&self) -> u64 {
        let graph = self.graph;
        let bytes = |id: NodeId| -> u64 {
            let node = graph.node(id);
            node.inputs.iter().chain(&node.outputs).map(|it| graph.tensor_type(*it).size_bytes() as u64).sum()
        };
        graph.node_ids().map(bytes).max().unwrap_or(0)
    }

    /// Every device alone, one of each kind: for comparison, and to compete if asked to.
    fn singles(&mut self, compete: bool) {
        let count = self.cluster.devices.len();
        let weights = self.weights_bytes();
        let order = self.graph.topological_order().unwrap_or_default();
        for device in representatives(self.cluster) {
            let info = &self.cluster.devices[device];
            let in_ram = if info.target.system == System::Linux { weights } else { 0 };
            let Some(devices) = closed(self.cluster, vec![device]) else { continue };
            if weights > limits::flash_bytes(info) || in_ram > limits::ram_bytes(info) {
                continue;
            }
            let whole = |id: &NodeId| {
                let shape = self.graph.node(*id).outputs.first().map_or(&[][..], |output| self.graph.shape(*output));
                (*id, Strategy::whole(device, count, shape))
            };
            let strategies: BTreeMap<_, _> = order.iter().map(whole).collect();
            let held = self.wanted.resident.as_deref();
            if held.is_some_and(|held| strategies.iter().any(|(id, way)| !held.allows(self.graph, *id, way))) {
                continue;
            }
            let partition = Partition::given(strategies);
            let entered = if compete {
                self.questions.push(Question { devices, options: None });
                self.enter(partition)
            } else {
                Figures::of(self.graph, self.cluster, &partition, self.wanted.objective)
            };
            if let Some(figures) = entered {
                let best = self.single.filter(|best| best.latency_ms <= figures.latency_ms);
                self.single = best.or(Some(figures));
            }
        }
    }

    /// Simulates an answer to the last question, unless the same has been given before.
    fn enter(&mut self, partition: Partition) -> Option<Figures> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (&partition.strategies, &partition.relays).hash(&mut hasher);
        let objective = self.wanted.objective;
        let digest = hasher.finish();
        let question = self.questions.len() - 1;
        let asked = self.questions[question].options.as_ref();
        // What a question of more devices is answered with would be another answer if there were others.
        let working = working_devices(&partition);
        let ends = [self.cluster.input, self.cluster.output];
        let is_of_part =
            self.questions[question].devices.iter().all(|device| working.contains(device) || ends.contains(device));
        let common = is_of_part && asked.is_some_and(|asked| self.is_common(asked.family, asked.objective));
        if let Some(known) = self.seen.get(&digest) {
            let same = self.contenders.iter_mut().find(|contender| contender.digest == digest);
            same.into_iter().for_each(|contender| contender.common |= common);
            return Some(*known);
        }
        let figures = Figures::of_encoded(self.graph, self.cluster, &partition, &self.wanted)?;
        self.seen.insert(digest, figures);
        self.count += 1;
        let partition = Partition { objective, ..partition };
        let rank = (self.rank(&figures), question);
        self.contenders.push(Contender { partition, figures, rank, question, common, digest, weakened: None });
        Some(figures)
    }
}
