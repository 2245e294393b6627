//! A cluster under virtual time: real nodes, simulated clocks, wires and programs, and faults of a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use partita_rt::node::random::Random;
use partita_rt::node::{Counters, Flow, INPUTS, Medium, Node, Order, Outcome, Plan, Why, Work};

use super::model::{self, Cluster, INPUT_BYTES};

/// A peer is lost when nothing was heard of it for so long.
pub const DETECT_US: u64 = 300_000;

/// Most links of a device.
const PEERS: usize = 4;

/// What can happen.
#[derive(Clone, Debug)]
enum Event {
    /// Bytes come to an end of a wire.
    Arrive {
        wire: usize,
        to: usize,
        connection: u32,
        bytes: Vec<u8>,
    },
    /// A device looks at its timers.
    Wake {
        device: usize,
    },
    /// A device has done a step.
    Done {
        device: usize,
        life: u32,
        token: u64,
    },
    /// A connection is there, at one end; or is not.
    Connected {
        wire: usize,
        device: usize,
        connection: u32,
    },
    Closed {
        wire: usize,
        device: usize,
        connection: u32,
    },
    /// The client hands in an input.
    Feed,
    /// A fault begins, or ends.
    Begin(Fault, u64),
    End(Fault),
    /// What is promised of silence is looked at.
    Look,
}

/// An event and its time; those of one time come in the order in which they were thought of.
struct Due {
    time: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}

/// What is broken.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The process is killed and started again after the fault's time; connections are closed or, as when power goes, not.
    Kill { device: usize, power: bool },
    /// The process does not run.
    Pause(usize),
    /// Nothing comes from an end of a wire to the other, or in both directions.
    Cut { wire: usize, from: Option<usize> },
    /// A connection is closed by somebody between.
    Reset(usize),
    /// Most frames are lost or damaged for a while.
    Storm(usize),
    /// A wire is slow.
    Slow(usize, f64),
    /// A device reads late.
    SlowReader(usize),
    /// A clock jumps forward.
    Jump(usize, u64),
}

/// What wires do all the time, in parts of a million per frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u64,
    pub twice: u64,
    pub flipped: u64,
    pub cut_short: u64,
}

/// One direction of a wire.
#[derive(Clone, Debug, Default)]
struct Pipe {
    free_at: u64,
    last_arrival: u64,
    inflight: usize,
    cut: u32,
    storm: bool,
    slow: f64,
    /// What waits for a cut connection to be whole again.
    held: Vec<(u32, Vec<u8>)>,
}

struct Clock {
    offset_us: u64,
    parts_per_million: i64,
}

impl Clock {
    fn at(&self, now: u64) -> u64 {
        let drift = now as i128 * i128::from(self.parts_per_million) / 1_000_000;
        (i128::from(self.offset_us) + i128::from(now) + drift).max(0) as u64
    }
}

/// A step that is being done.
struct Working {
    token: u64,
    work: Work,
    /// What was read when it began.
    read: Vec<(std::ops::Range<usize>, Vec<u8>)>,
    result: (std::ops::Range<usize>, Vec<u8>),
    exit: Option<u32>,
}

struct Machine<'p> {
    node: Option<Node<'p, PEERS>>,
    memory: Vec<u8>,
    places: Vec<Vec<u8>>,
    clock: Clock,
    life: u32,
    paused: u32,
    inbox: VecDeque<Event>,
    working: Option<Working>,
    left_at: Option<(usize, u32)>,
    wake_at: u64,
    reads_late: u64,
    delivered: HashMap<u32, (u8, Option<u32>)>,
    /// Since when nothing could be heard over each link, while this device ran without a break.
    deaf_since: [Option<u64>; PEERS],
}

/// An answer's bytes, and the exit.
type Answer = (Vec<u8>, Option<u32>);

/// An input that was accepted.
#[derive(Clone)]
struct Asked {
    input: Vec<u8>,
    /// The right answer on each route, as far as it was needed.
    answers: Vec<Option<Answer>>,
    deadline: u64,
    accepted_at: u64,
}

/// What became of all inputs of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub offered: u64,
    pub refused: u64,
    pub full: u64,
    pub exits: u64,
    pub variants: u64,
    pub late: u64,
    pub failed: u64,
    /// Accepted by a device that then lost its memory; its clients were disconnected.
    pub disconnected: u64,
    pub delivered: u64,
    pub events: u64,
    pub counters: Counters,
    /// Longest time from the end of all faults to the first answer.
    pub recovered_us: u64,
}

impl Summary {
    /// Adds what became of the inputs of another run.
    pub fn add(&mut self, other: &Summary) {
        self.offered += other.offered;
        self.refused += other.refused;
        self.full += other.full;
        self.exits += other.exits;
        self.variants += other.variants;
        self.late += other.late;
        self.failed += other.failed;
        self.disconnected += other.disconnected;
        self.delivered += other.delivered;
        self.events += other.events;
        self.recovered_us = self.recovered_us.max(other.recovered_us);
        let (sum, more) = (&mut self.counters, &other.counters);
        sum.damaged += more.damaged;
        sum.repeated += more.repeated;
        sum.unknown += more.unknown;
        sum.begun += more.begun;
        sum.silent += more.silent;
        sum.closed += more.closed;
        sum.tried_again += more.tried_again;
        sum.sent_bytes += more.sent_bytes;
    }
}

/// A simulation.
pub struct World<'p> {
    pub seed: u64,
    cluster: &'p Cluster,
    plans: Vec<Plan<'p>>,
    weather: Weather,
    random: Random,
    now: u64,
    events: BinaryHeap<Reverse<Due>>,
    /// Wires of each device, in the order of its links.
    wires: Vec<Vec<usize>>,
    number: u64,
    machines: Vec<Machine<'p>>,
    pipes: Vec<[Pipe; 2]>,
    connections: Vec<Option<u32>>,
    next_connection: u32,
    asked: BTreeMap<u64, Asked>,
    /// Inputs whose records were made lately.
    past: VecDeque<Asked>,
    next_tag: u64,
    feed_every: u64,
    budget: (u64, u64),
    compute_us: u64,
    faults_end: u64,
    pub summary: Summary,
    /// What was done, if it is to be told.
    pub trace: Option<Vec<String>>,
}

macro_rules! tell {
    ($world:expr, $($argument:tt)*) => {
        if $world.trace.is_some() {
            let text = format!("{:>9} {}", $world.now, format!($($argument)*));
            $world.trace.as_mut().into_iter().for_each(|trace| trace.push(text.clone()));
        }
    };
}

impl<'p> World<'p> {
    pub fn new(
        seed: u64,
        cluster: &'p Cluster,
        plans: Vec<Plan<'p>>,
        weather: Weather,
        mut random: Random,
    ) -> World<'p> {
        let machines = (0..cluster.devices).map(|_| Machine {
            node: None,
            memory: vec![0; model::memory_bytes(cluster.devices)],
            places: vec![vec![0; INPUT_BYTES]; INPUTS],
            clock: Clock { offset_us: random.below(1 << 40), parts_per_million: random.below(20_000) as i64 - 10_000 },
            life: 0,
            paused: 0,
            inbox: VecDeque::new(),
            working: None,
            left_at: None,
            wake_at: u64::MAX,
            reads_late: 0,
            delivered: HashMap::new(),
            deaf_since: [None; PEERS],
        });
        let machines = machines.collect();
        let ends = |wire: usize| [cluster.wires[wire].ends.0, cluster.wires[wire].ends.1];
        let of = |device| (0..cluster.wires.len()).filter(|wire| ends(*wire).contains(&device)).collect();
        let pipe = Pipe { slow: 1.0, ..Pipe::default() };
        let pipes = cluster.wires.iter().map(|_| [pipe.clone(), pipe.clone()]).collect();
        World {
            seed,
            cluster,
            plans,
            weather,
            now: 0,
            events: BinaryHeap::new(),
            wires: (0..cluster.devices).map(of).collect(),
            number: 0,
            machines,
            pipes,
            connections: vec![None; cluster.wires.len()],
            next_connection: 1,
            asked: BTreeMap::new(),
            past: VecDeque::new(),
            next_tag: 0,
            feed_every: 8_000 + random.below(100_000),
            budget: (50_000 + random.below(300_000), 1 + random.below(700_000)),
            compute_us: 10 + random.below(1_500),
            faults_end: u64::MAX,
            summary: Summary::default(),
            random,
            trace: None,
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse(Due { time: time.max(self.now), number: self.number, event }));
    }

    fn fail(&self, why: &str) -> ! {
        for line in self.trace.iter().flatten() {
            eprintln!("{line}");
        }
        panic!("seed {} at {} us: {why} (PARTITA_SEED={} replays it)", self.seed, self.now, self.seed);
    }

    fn link_of(&self, wire: usize, device: usize) -> usize {
        self.wires[device].iter().position(|at| *at == wire).expect("the wire ends there")
    }

    fn wires_of(&self, device: usize) -> Vec<usize> {
        self.wires[device].clone()
    }

    /// The direction of a wire that begins at a device.
    fn pipe(&mut self, wire: usize, from: usize) -> &mut Pipe {
        let side = usize::from(self.cluster.wires[wire].ends.1 == from);
        &mut self.pipes[wire][side]
    }

    fn other(&self, wire: usize, device: usize) -> usize {
        let (a, b) = self.cluster.wires[wire].ends;
        if a == device { b } else { a }
    }

    /// Runs with these faults, at their times; afterwards everything has to be well again.
    pub fn run(&mut self, faults: Vec<(u64, Fault, u64)>, faults_end: u64, end: u64) {
        for device in 0..self.cluster.devices {
            self.start(device);
        }
        for (time, fault, lasts) in faults {
            self.at(time, Event::Begin(fault, lasts));
        }
        self.at(self.feed_every, Event::Feed);
        self.at(100_000, Event::Look);
        self.faults_end = faults_end;
        let calm = faults_end + 2_500_000;
        let mut checked = false;
        while let Some(Reverse(Due { time, event, .. })) = self.events.pop() {
            if time > end && (self.asked.is_empty() || time > end + 25_000_000) {
                break;
            }
            self.now = time;
            if !checked && time >= calm {
                checked = true;
                self.is_whole_again();
            }
            self.summary.events += 1;
            if self.summary.events > 3_000_000 {
                self.fail("there is no end of events");
            }
            self.handle(event);
        }
        if let Some((tag, asked)) = self.asked.iter().next() {
            self.fail(&format!("input {tag}, accepted at {}, has no record at the end", asked.accepted_at));
        }
        for device in 0..self.cluster.devices {
            self.count(device);
        }
    }

    /// Adds what a node has counted in its life.
    fn count(&mut self, device: usize) {
        let counters = self.machines[device].node.as_ref().map(Node::counters).unwrap_or_default();
        self.summary.add(&Summary { counters, ..Summary::default() });
    }

    /// Some time after the last fault everybody talks to everybody, and the next inputs have to be answered.
    fn is_whole_again(&mut self) {
        for device in 0..self.cluster.devices {
            for link in 0..self.plans[device].peers.len() {
                if !self.machines[device].node.as_ref().is_some_and(|node| node.is_talking(link)) {
                    self.fail(&format!("device {device} does not talk over its link {link} although all is well"));
                }
            }
        }
        let lead = self.machines[self.cluster.input].node.as_ref();
        if !lead.is_some_and(|lead| lead.can_take(0)) {
            self.fail("the whole network's route is not taken although all is well");
        }
        self.budget = (20_000_000, 1);
        self.feed_every = self.feed_every.max(20_000);
    }

    fn start(&mut self, device: usize) {
        let seed = self.random.next();
        let machine = &mut self.machines[device];
        machine.node = Some(Node::new(self.plans[device], seed));
        machine.memory.fill(0x55);
        machine.life += 1;
        machine.working = None;
        machine.delivered.clear();
        machine.deaf_since = [None; PEERS];
        machine.clock.offset_us = self.random.below(1 << 40);
        tell!(self, "{device} starts");
        self.go(device);
    }

    fn handle(&mut self, event: Event) {
        let device = match &event {
            Event::Arrive { to, .. } => Some(*to),
            Event::Wake { device }
            | Event::Done { device, .. }
            | Event::Connected { device, .. }
            | Event::Closed { device, .. } => Some(*device),
            Event::Feed => Some(self.cluster.input),
            Event::Begin(..) | Event::End(_) | Event::Look => None,
        };
        if let Some(device) = device {
            let machine = &mut self.machines[device];
            if machine.paused > 0 && !matches!(event, Event::Feed) {
                machine.inbox.push_back(event);
                return;
            }
        }
        match event {
            Event::Arrive { wire, to, connection, bytes } => self.arrive(wire, to, connection, bytes),
            Event::Wake { device } => {
                if self.machines[device].wake_at <= self.now {
                    self.go(device);
                }
            }
            Event::Done { device, life, token } => self.done(device, life, token),
            Event::Connected { wire, device, connection } => {
                tell!(self, "{device} is connected over wire {wire} by {connection}");
                if self.connections[wire] == Some(connection) {
                    let link = self.link_of(wire, device);
                    self.tick(device);
                    self.machines[device].node.iter_mut().for_each(|node| node.on_connected(link));
                    self.go(device);
                }
            }
            Event::Closed { wire, device, connection } => {
                tell!(self, "{device} hears that connection {connection} of wire {wire} is closed");
                if self.connections[wire].is_none_or(|current| current == connection) {
                    let link = self.link_of(wire, device);
                    self.tick(device);
                    self.machines[device].node.iter_mut().for_each(|node| node.on_closed(link));
                    self.go(device);
                }
            }
            Event::Feed => self.feed(),
            Event::Begin(fault, lasts) => {
                tell!(self, "begins: {fault:?} for {lasts}");
                self.begin(&fault);
                self.at(self.now + lasts, Event::End(fault));
            }
            Event::End(fault) => {
                tell!(self, "ends: {fault:?}");
                self.end(&fault);
            }
            Event::Look => {
                self.look();
                self.at(self.now + 20_000, Event::Look);
            }
        }
    }

    fn tick(&mut self, device: usize) {
        let machine = &mut self.machines[device];
        let clock = machine.clock.at(self.now);
        machine.node.iter_mut().for_each(|node| node.on_tick(clock));
    }

    fn feed(&mut self) {
        let next = self.now + 1 + self.random.below(2 * self.feed_every);
        self.at(next, Event::Feed);
        let lead = self.cluster.input;
        if self.now > self.faults_end + 3_200_000 {
            return;
        }
        let budget = self.budget.0 + self.random.below(self.budget.1);
        let input: Vec<u8> = (0..INPUT_BYTES).map(|_| self.random.next() as u8).collect();
        if self.machines[lead].paused > 0 || self.machines[lead].node.is_none() {
            return;
        }
        self.tick(lead);
        self.summary.offered += 1;
        let tag = self.next_tag;
        let machine = &mut self.machines[lead];
        let Some(place) = machine.node.as_mut().and_then(|node| node.accept(tag, budget)) else {
            self.summary.refused += 1;
            return;
        };
        machine.places[place].copy_from_slice(&input);
        self.next_tag += 1;
        tell!(self, "input {tag} in {budget} us");
        let answers = vec![None; self.cluster.ways.len()];
        let (deadline, accepted_at) = (self.now + budget, self.now);
        self.asked.insert(tag, Asked { input, answers, deadline, accepted_at });
        self.go(lead);
    }

    /// A device does all that there is to do.
    fn go(&mut self, device: usize) {
        if self.machines[device].paused > 0 || self.machines[device].node.is_none() {
            return;
        }
        self.tick(device);
        for _ in 0..1000 {
            let mut moved = false;
            while self.work(device) {
                moved = true;
            }
            for link in 0..self.wires[device].len() {
                let wire = self.wires[device][link];
                let Some(node) = self.machines[device].node.as_mut() else { return };
                match node.poll_order(link) {
                    Some(Order::Connect) => self.connect(wire, device),
                    Some(Order::Close) => self.close(wire, device, true),
                    None => {}
                }
                while self.send(device, link, wire) {
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        self.records(device);
        let now = self.now;
        let machine = &mut self.machines[device];
        let Some(node) = &machine.node else { return };
        let due = node.due_us();
        let left = due.saturating_sub(machine.clock.at(now)).min(10_000_000);
        let wake = now + left + left / 50 + 1;
        if wake < machine.wake_at || machine.wake_at <= now {
            machine.wake_at = wake;
            self.at(wake, Event::Wake { device });
        }
    }

    fn send(&mut self, device: usize, link: usize, wire: usize) -> bool {
        let to = self.other(wire, device);
        let (medium, rate, latency, jitter) = {
            let wire = &self.cluster.wires[wire];
            (wire.medium, wire.bytes_per_second, wire.latency_us, wire.jitter_us)
        };
        let now = self.now;
        let side = usize::from(self.cluster.wires[wire].ends.1 == device);
        let pipe = &mut self.pipes[wire][side];
        let capacity = match medium {
            Medium::Connection => 20_000,
            Medium::Line => 600,
            Medium::Datagrams => 60_000,
        };
        let connection = self.connections[wire].unwrap_or(0);
        if (medium == Medium::Connection && connection == 0) || pipe.inflight >= capacity {
            return false;
        }
        let machine = &mut self.machines[device];
        let Some(node) = machine.node.as_mut() else { return false };
        let Some(pieces) = node.poll_send(link, machine.memory.as_slice()) else { return false };
        let mut bytes = pieces.concat();
        if medium != Medium::Datagrams {
            bytes.truncate(capacity - pipe.inflight);
        }
        node.on_sent(link, bytes.len());
        pipe.inflight += bytes.len();
        let took = (bytes.len() as f64 * 1e6 / (rate * pipe.slow)) as u64;
        pipe.free_at = pipe.free_at.max(now) + took;
        let jitter = if medium == Medium::Datagrams { self.random.below(1 + jitter) } else { 0 };
        let arrival =
            (pipe.free_at + latency + jitter).max(if medium == Medium::Datagrams { 0 } else { pipe.last_arrival });
        pipe.last_arrival = arrival.max(pipe.last_arrival);
        self.at(arrival, Event::Arrive { wire, to, connection, bytes });
        true
    }

    fn chance(&mut self, parts: u64) -> bool {
        parts > 0 && self.random.below(1_000_000) < parts
    }

    fn arrive(&mut self, wire: usize, to: usize, connection: u32, mut bytes: Vec<u8>) {
        let from = self.other(wire, to);
        let medium = self.cluster.wires[wire].medium;
        let late = self.machines[to].reads_late;
        if late > 0 && self.chance(500_000) {
            // Nothing is read for a while, and what is behind it waits too: order is kept by the pipe.
            let arrival = (self.now + late).max(self.pipe(wire, from).last_arrival);
            self.pipe(wire, from).last_arrival = arrival;
            if medium == Medium::Datagrams {
                self.at(arrival, Event::Arrive { wire, to, connection, bytes });
                return;
            }
        }
        let pipe = self.pipe(wire, from);
        if pipe.cut > 0 && medium == Medium::Connection {
            pipe.held.push((connection, bytes));
            return;
        }
        let (cut, storm) = (pipe.cut > 0, pipe.storm);
        pipe.inflight = pipe.inflight.saturating_sub(bytes.len());
        if medium == Medium::Connection && self.connections[wire] != Some(connection) {
            return;
        }
        if cut {
            self.go(from);
            return;
        }
        let weather = self.weather;
        let lost = if storm { 500_000 } else { weather.lost };
        match medium {
            Medium::Datagrams => {
                if self.chance(lost) {
                    self.go(from);
                    return;
                }
                if self.chance(weather.twice) {
                    let later = self.now + self.random.below(20_000);
                    self.pipe(wire, from).inflight += bytes.len();
                    self.at(later, Event::Arrive { wire, to, connection, bytes: bytes.clone() });
                }
                if self.chance(weather.cut_short) {
                    bytes.truncate(self.random.below(bytes.len() as u64) as usize);
                }
            }
            Medium::Line => {
                if self.chance(lost / 4) && !bytes.is_empty() {
                    let at = self.random.below(bytes.len() as u64) as usize;
                    let count = 1 + self.random.below(20) as usize;
                    bytes.drain(at..(at + count).min(bytes.len()));
                }
            }
            Medium::Connection => {}
        }
        if self.chance(if storm && medium != Medium::Connection { 200_000 } else { weather.flipped })
            && !bytes.is_empty()
        {
            let at = self.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
        let link = self.link_of(wire, to);
        self.tick(to);
        let machine = &mut self.machines[to];
        if let Some(node) = machine.node.as_mut() {
            node.on_bytes(link, &bytes, machine.memory.as_mut_slice());
        }
        self.go(to);
        self.go(from);
    }

    fn connect(&mut self, wire: usize, device: usize) {
        let peer = self.other(wire, device);
        let latency = self.cluster.wires[wire].latency_us;
        let reachable = self.pipe(wire, device).cut == 0 && self.pipe(wire, peer).cut == 0;
        tell!(self, "{device} connects to {peer} over wire {wire}, reachable: {reachable}");
        if !reachable {
            return;
        }
        if self.machines[peer].node.is_none() {
            let connection = self.next_connection;
            self.at(self.now + 2 * latency, Event::Closed { wire, device, connection });
            return;
        }
        let connection = self.next_connection;
        self.next_connection += 1;
        self.connections[wire] = Some(connection);
        for side in &mut self.pipes[wire] {
            (side.inflight, side.held) = (0, Vec::new());
        }
        self.at(self.now + latency, Event::Connected { wire, device: peer, connection });
        self.at(self.now + 2 * latency, Event::Connected { wire, device, connection });
    }

    /// A connection is closed by one of its ends, or by both if by nobody.
    fn close(&mut self, wire: usize, by: usize, told: bool) {
        let Some(connection) = self.connections[wire].take() else { return };
        for side in &mut self.pipes[wire] {
            (side.inflight, side.held) = (0, Vec::new());
        }
        let latency = self.cluster.wires[wire].latency_us;
        let peer = self.other(wire, by);
        let reachable = self.pipe(wire, by).cut == 0;
        if told && reachable {
            self.at(self.now + latency, Event::Closed { wire, device: peer, connection });
        }
    }

    /// Takes what a device's node wants done; whether there was anything.
    fn work(&mut self, device: usize) -> bool {
        let Some(node) = self.machines[device].node.as_mut() else { return false };
        let work = node.poll_work();
        if work == Work::Nothing {
            return false;
        }
        if self.machines[device].working.is_some() {
            self.fail(&format!("device {device} is given {work:?} while it works"));
        }
        let cluster = self.cluster;
        let machine = &mut self.machines[device];
        let (mut read, mut result, mut exit) = (Vec::new(), (0..0, Vec::new()), None);
        match work {
            Work::Load { place, .. } => {
                machine.left_at = None;
                let input = machine.places[place].clone();
                model::load(&mut machine.memory, &input);
            }
            Work::Compute { route, step } => {
                let (way, step) = (&cluster.ways[usize::from(route)], usize::from(step));
                if step == 0 {
                    machine.left_at = None;
                }
                let (bytes, leaves) = way.compute(cluster, device, step, &machine.memory);
                read = way.read(device, step).into_iter().map(|at| (at.clone(), machine.memory[at].to_vec())).collect();
                // Whoever sends what this writes over, or writes what this reads, is found out.
                machine.memory[way.written(device, step)].fill(0xaa);
                (result, exit) = ((way.written(device, step), bytes), leaves);
                machine.left_at = leaves.map(|exit| (step, exit));
            }
            Work::Deliver { .. } | Work::Nothing => {}
        }
        self.number += 1;
        let (token, life) = (self.number, machine.life);
        machine.working = Some(Working { token, work, read, result, exit });
        let took = match work {
            Work::Compute { .. } => 1 + self.random.below(2 * self.compute_us),
            _ => 1 + self.random.below(50),
        };
        self.at(self.now + took, Event::Done { device, life, token });
        true
    }

    fn done(&mut self, device: usize, life: u32, token: u64) {
        let cluster = self.cluster;
        let machine = &mut self.machines[device];
        if machine.life != life || machine.working.as_ref().is_none_or(|working| working.token != token) {
            return;
        }
        let Some(working) = machine.working.take() else { return };
        let changed = working.read.iter().find(|(at, bytes)| machine.memory[at.clone()] != bytes[..]);
        if let Some((at, _)) = changed {
            self.fail(&format!("device {device}: {at:?} was written while {:?} read it", working.work));
        }
        machine.memory[working.result.0.clone()].copy_from_slice(&working.result.1);
        if let Work::Deliver { input, route } = working.work {
            let (left, way) = (machine.left_at, &cluster.ways[usize::from(route)]);
            let answer = way.answer(device, left.map_or(usize::MAX, |(step, _)| step), &machine.memory);
            let twice = machine.delivered.insert(input, (route, left.map(|(_, exit)| exit))).is_some();
            self.summary.delivered += 1;
            tell!(self, "{device} delivers input {input} of route {route}");
            if twice {
                self.fail(&format!("input {input} was delivered twice"));
            }
            self.is_right(route, left.map(|(_, exit)| exit), &answer);
        }
        self.tick(device);
        let flow = working.exit.map_or(Flow::Next, |exit| Flow::Leave(exit, 0.5));
        self.machines[device].node.iter_mut().for_each(|node| node.on_done(flow));
        self.go(device);
    }

    /// An answer is that of an input which was accepted: of mixed inputs, routes or damaged bytes there is none such.
    fn is_right(&mut self, route: u8, exit: Option<u32>, answer: &[u8]) {
        let (cluster, at) = (self.cluster, usize::from(route));
        let right = |asked: &mut Asked| {
            let input = &asked.input;
            let known = asked.answers[at].get_or_insert_with(|| cluster.ways[at].reference(cluster, input));
            known.1 == exit && known.0 == answer
        };
        // Of an input whose record is made, or whose client is gone, an answer may still come.
        let known = self.asked.values_mut().any(right) || self.past.iter_mut().rev().any(right);
        if !known {
            self.fail(&format!("an answer of route {route}, exit {exit:?}, is wrong"));
        }
    }

    fn records(&mut self, device: usize) {
        while let Some(record) = self.machines[device].node.as_mut().and_then(Node::poll_record) {
            let Some(asked) = self.asked.remove(&record.tag) else {
                self.fail(&format!("input {} has two records", record.tag));
            };
            tell!(self, "record of {}: {:?}, {} tries", record.tag, record.outcome, record.tries);
            self.past.push_back(asked.clone());
            if self.past.len() > 64 {
                self.past.pop_front();
            }
            if self.asked.keys().any(|tag| *tag < record.tag) {
                self.fail("records are not in the order of acceptance");
            }
            let (route, exit) = match record.outcome {
                Outcome::Full => (0, None),
                Outcome::Exit(exit, _) => (0, Some(exit)),
                Outcome::Variant(route, exit) => (route, exit.map(|(exit, _)| exit)),
                Outcome::Late => {
                    self.summary.late += 1;
                    self.is_excused(&asked, "late");
                    continue;
                }
                Outcome::Failed(why) => {
                    self.summary.failed += 1;
                    if why != Why::NoRoute {
                        self.fail("nobody has stopped anything");
                    }
                    self.is_excused(&asked, "given up");
                    continue;
                }
            };
            match record.outcome {
                Outcome::Full => self.summary.full += 1,
                Outcome::Exit(..) => self.summary.exits += 1,
                _ => self.summary.variants += 1,
            }
            if self.now >= self.faults_end && self.summary.recovered_us == 0 {
                self.summary.recovered_us = self.now - self.faults_end;
            }
            let way = &self.cluster.ways[usize::from(route)];
            if way.reference(self.cluster, &asked.input).1 != exit {
                self.fail(&format!("record of {}: exit {exit:?} is wrong", record.tag));
            }
        }
    }

    /// Whether something may go wrong now: a fault is under way, or was not long ago.
    fn is_excused(&self, asked: &Asked, what: &str) {
        if asked.accepted_at >= self.faults_end + 2_500_000 {
            self.fail(&format!("an input is {what} although all is well"));
        }
    }

    /// Who cannot be heard is noticed; and every input has its record in time.
    fn look(&mut self) {
        for device in 0..self.cluster.devices {
            for (link, wire) in self.wires_of(device).into_iter().enumerate() {
                let peer = self.other(wire, device);
                let runs = self.machines[device].paused == 0 && self.machines[device].node.is_some();
                let silent = self.machines[peer].paused > 0 || self.machines[peer].node.is_none();
                let pipe = self.pipe(wire, peer);
                let deaf = runs && (silent || pipe.cut > 0);
                let last = pipe.last_arrival;
                let since = &mut self.machines[device].deaf_since[link];
                *since = if deaf { Some(since.unwrap_or(self.now).max(last.min(self.now))) } else { None };
                let noticed_by = since.map(|since| since + DETECT_US + DETECT_US / 50 + 20_000);
                let talks = self.machines[device].node.as_ref().is_some_and(|node| node.is_talking(link));
                if talks && noticed_by.is_some_and(|by| self.now > by) {
                    self.fail(&format!(
                        "device {device} has not noticed that {peer} is silent since {since:?}",
                        since = self.machines[device].deaf_since[link]
                    ));
                }
            }
        }
        let lead = self.cluster.input;
        if self.machines[lead].paused == 0 && self.machines[lead].node.is_some() {
            for (tag, asked) in &self.asked {
                let given = asked.deadline - asked.accepted_at;
                if self.now > asked.deadline + given / 50 + 30_000 && !self.asked.keys().any(|other| other < tag) {
                    self.fail(&format!("input {tag} has no record although its time is up"));
                }
            }
        }
    }

    fn begin(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill { device, power } => {
                self.count(*device);
                if self.machines[*device].node.take().is_none() {
                    return;
                }
                let machine = &mut self.machines[*device];
                machine.working = None;
                machine.life += 1;
                for event in std::mem::take(&mut machine.inbox) {
                    if let Event::Arrive { wire, bytes, .. } = event {
                        let from = self.other(wire, *device);
                        let pipe = self.pipe(wire, from);
                        pipe.inflight = pipe.inflight.saturating_sub(bytes.len());
                    }
                }
                if *device == self.cluster.input {
                    self.summary.disconnected += self.asked.len() as u64;
                    self.past.extend(std::mem::take(&mut self.asked).into_values());
                }
                for wire in self.wires_of(*device) {
                    if !power {
                        self.close(wire, *device, true);
                    }
                }
            }
            Fault::Pause(device) => self.machines[*device].paused += 1,
            Fault::Cut { wire, from } => {
                let ends = self.cluster.wires[*wire].ends;
                for end in [ends.0, ends.1] {
                    self.pipe(*wire, end).cut += u32::from(from.is_none_or(|from| from == end));
                }
            }
            Fault::Reset(wire) => {
                if let Some(connection) = self.connections[*wire].take() {
                    for side in &mut self.pipes[*wire] {
                        (side.inflight, side.held) = (0, Vec::new());
                    }
                    let (a, b) = self.cluster.wires[*wire].ends;
                    for device in [a, b] {
                        self.at(
                            self.now + self.random.clone().below(500),
                            Event::Closed { wire: *wire, device, connection },
                        );
                    }
                }
            }
            Fault::Storm(wire) => self.pipes[*wire].iter_mut().for_each(|pipe| pipe.storm = true),
            Fault::Slow(wire, factor) => self.pipes[*wire].iter_mut().for_each(|pipe| pipe.slow = *factor),
            Fault::SlowReader(device) => self.machines[*device].reads_late = 5_000,
            Fault::Jump(device, by) => {
                let machine = &mut self.machines[*device];
                machine.clock.offset_us += by;
                machine.deaf_since = [None; PEERS];
                self.go(*device);
            }
        }
    }

    fn end(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill { device, power } => {
                if self.machines[*device].node.is_some() {
                    return;
                }
                for wire in self.wires_of(*device) {
                    if *power {
                        // The peers' systems learn of it when they send to the new one.
                        self.close(wire, *device, true);
                    }
                }
                self.start(*device);
            }
            Fault::Pause(device) => {
                let machine = &mut self.machines[*device];
                machine.paused -= 1;
                machine.deaf_since = [None; PEERS];
                if machine.paused == 0 {
                    machine.wake_at = u64::MAX;
                    let events: Vec<Event> = machine.inbox.drain(..).collect();
                    for event in events {
                        self.at(self.now, event);
                    }
                    let device = *device;
                    self.go(device);
                }
            }
            Fault::Cut { wire, from } => {
                let ends = self.cluster.wires[*wire].ends;
                for end in [ends.0, ends.1] {
                    let to = self.other(*wire, end);
                    let now = self.now;
                    let pipe = self.pipe(*wire, end);
                    pipe.cut -= u32::from(from.is_none_or(|from| from == end));
                    if pipe.cut == 0 {
                        let held = std::mem::take(&mut pipe.held);
                        pipe.last_arrival = pipe.last_arrival.max(now);
                        for (connection, bytes) in held {
                            self.at(now, Event::Arrive { wire: *wire, to, connection, bytes });
                        }
                    }
                }
            }
            Fault::Reset(_) | Fault::Jump(..) => {}
            Fault::Storm(wire) => self.pipes[*wire].iter_mut().for_each(|pipe| pipe.storm = false),
            Fault::Slow(wire, _) => self.pipes[*wire].iter_mut().for_each(|pipe| pipe.slow = 1.0),
            Fault::SlowReader(device) => self.machines[*device].reads_late = 0,
        }
    }
}
