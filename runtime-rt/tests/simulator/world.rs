//! A cluster under virtual time: real nodes, simulated clocks, wires and programs, and faults of a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use partita_rt::node::random::Random;
use partita_rt::node::{Flow, INPUTS, Link, Medium, Node, Order, Peer, Plan, Work};
#[cfg(feature = "noise")]
use partita_rt::noise::Private;

use super::events::{Due, Event};
use super::faults::Fault;
use super::model::{self, Cluster, INPUT_BYTES};
use super::network::{Pipe, Weather, note};
use super::summary::Summary;

/// A peer is lost when nothing was heard of it for so long.
pub const DETECT_US: u64 = 300_000;

/// Most links of a device.
pub(super) const PEERS: usize = 4;

pub(super) struct Clock {
    pub(super) offset_us: u64,
    pub(super) parts_per_million: i64,
}

impl Clock {
    pub(super) fn at(&self, now: u64) -> u64 {
        let drift = now as i128 * i128::from(self.parts_per_million) / 1_000_000;
        (i128::from(self.offset_us) + i128::from(now) + drift).max(0) as u64
    }
}

/// A step that is being done.
pub(super) struct Working {
    pub(super) token: u64,
    pub(super) work: Work,
    /// What was read when it began.
    pub(super) read: Vec<(std::ops::Range<usize>, Vec<u8>)>,
    pub(super) result: (std::ops::Range<usize>, Vec<u8>),
    pub(super) exit: Option<u32>,
}

pub(super) struct Machine<'p> {
    pub(super) node: Option<Node<'p, [Link; PEERS]>>,
    pub(super) memory: Vec<u8>,
    /// Where each link's tensors are sealed.
    pub(super) rooms: Vec<Vec<u8>>,
    pub(super) places: Vec<Vec<u8>>,
    pub(super) clock: Clock,
    pub(super) life: u32,
    pub(super) paused: u32,
    pub(super) inbox: VecDeque<Event>,
    pub(super) working: Option<Working>,
    pub(super) left_at: Option<(usize, u32)>,
    pub(super) wake_at: u64,
    pub(super) reads_late: u64,
    /// Whether the next step hangs; the end of the one that does, and since when.
    pub(super) hangs: bool,
    pub(super) hung: Option<Event>,
    pub(super) hung_since: Option<u64>,
    pub(super) delivered: HashMap<u32, (u8, Option<u32>)>,
    /// Since when nothing could be heard over each link, while this device ran without a break.
    pub(super) deaf_since: [Option<u64>; PEERS],
}

/// An answer's bytes, and the exit.
pub(super) type Answer = (Vec<u8>, Option<u32>);

/// An input that was accepted.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) input: Vec<u8>,
    /// The right answer on each route, as far as it was needed.
    pub(super) answers: Vec<Option<Answer>>,
    pub(super) deadline: u64,
    pub(super) accepted_at: u64,
}

/// A simulation.
pub struct World<'p> {
    pub seed: u64,
    pub(super) cluster: &'p Cluster,
    pub(super) plans: Vec<Plan<'p>>,
    pub(super) weather: Weather,
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) events: BinaryHeap<Reverse<Due>>,
    /// Wires of each device, in the order of its links.
    pub(super) wires: Vec<Vec<usize>>,
    pub(super) number: u64,
    pub(super) machines: Vec<Machine<'p>>,
    pub(super) pipes: Vec<[Pipe; 2]>,
    /// What came over each wire lately: to whom, and the bytes.
    pub(super) heard: Vec<VecDeque<(usize, Vec<u8>)>>,
    pub(super) connections: Vec<Option<u32>>,
    pub(super) next_connection: u32,
    pub(super) asked: BTreeMap<u64, Asked>,
    /// Inputs whose records were made lately.
    pub(super) past: VecDeque<Asked>,
    pub(super) next_tag: u64,
    /// When the first input is handed in, if not at once, and how often.
    pub first_feed: Option<u64>,
    pub feed_every: u64,
    pub budget: (u64, u64),
    pub(super) compute_us: u64,
    /// How long every step computes, if that is not left to chance.
    pub steady_us: Option<u64>,
    pub(super) faults_end: u64,
    pub summary: Summary,
    /// What was done, if it is to be told.
    pub trace: Option<Vec<String>>,
}

impl<'p> World<'p> {
    pub fn new(
        seed: u64,
        cluster: &'p Cluster,
        plans: Vec<Plan<'p>>,
        weather: Weather,
        mut random: Random,
    ) -> World<'p> {
        let room = |peer: &Peer| vec![0; if peer.medium == Medium::Datagrams { peer.chunk_bytes.into() } else { 100 }];
        let machines = (0..cluster.devices).map(|device| Machine {
            node: None,
            memory: vec![0; model::memory_bytes(cluster.devices)],
            rooms: plans[device].peers.iter().map(room).collect(),
            places: vec![vec![0; INPUT_BYTES]; INPUTS],
            clock: Clock { offset_us: random.below(1 << 40), parts_per_million: random.below(20_000) as i64 - 10_000 },
            life: 0,
            paused: 0,
            inbox: VecDeque::new(),
            working: None,
            left_at: None,
            wake_at: u64::MAX,
            reads_late: 0,
            hangs: false,
            hung: None,
            hung_since: None,
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
            heard: vec![VecDeque::new(); cluster.wires.len()],
            connections: vec![None; cluster.wires.len()],
            next_connection: 1,
            asked: BTreeMap::new(),
            past: VecDeque::new(),
            next_tag: 0,
            first_feed: None,
            feed_every: 8_000 + random.below(100_000),
            budget: (50_000 + random.below(300_000), 1 + random.below(700_000)),
            steady_us: None,
            compute_us: 10 + random.below(1_500),
            faults_end: u64::MAX,
            summary: Summary::default(),
            random,
            trace: None,
        }
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse(Due { time: time.max(self.now), number: self.number, event }));
    }

    pub(super) fn tell(&mut self, text: String) {
        let now = self.now;
        self.trace.iter_mut().for_each(|trace| trace.push(format!("{now:>9} {text}")));
    }

    pub(super) fn fail(&self, why: &str) -> ! {
        for line in self.trace.iter().flatten() {
            eprintln!("{line}");
        }
        panic!("seed {} at {} us: {why} (PARTITA_SEED={} replays it)", self.seed, self.now, self.seed);
    }

    pub(super) fn link_of(&self, wire: usize, device: usize) -> usize {
        self.wires[device].iter().position(|at| *at == wire).expect("the wire ends there")
    }

    pub(super) fn wires_of(&self, device: usize) -> Vec<usize> {
        self.wires[device].clone()
    }

    /// The direction of a wire that begins at a device.
    pub(super) fn pipe(&mut self, wire: usize, from: usize) -> &mut Pipe {
        let side = usize::from(self.cluster.wires[wire].ends.1 == from);
        &mut self.pipes[wire][side]
    }

    pub(super) fn other(&self, wire: usize, device: usize) -> usize {
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
        self.at(self.first_feed.unwrap_or(self.feed_every), Event::Feed);
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
            // Signs of life alone are some hundred a second.
            if self.summary.events > 3_000_000.max(end / 500) {
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
    pub(super) fn count(&mut self, device: usize) {
        let counters = self.machines[device].node.as_ref().map(Node::counters).unwrap_or_default();
        self.summary.add(&Summary { counters, ..Summary::default() });
    }

    pub(super) fn start(&mut self, device: usize) {
        let seed = self.random.next();
        let machine = &mut self.machines[device];
        let mut node = Node::new(self.plans[device], seed);
        // Some clusters have keys.
        #[cfg(feature = "noise")]
        if self.seed % 4 == 1 {
            let private = |device: u8| Private::new([device + 1; 32]);
            let peers: Vec<_> = self.plans[device].peers.iter().map(|peer| private(peer.device).public()).collect();
            let secret = core::array::from_fn(|_| self.random.next() as u8);
            assert!(node.set_keys(&private(device as u8), &peers, secret));
        }
        machine.node = Some(node);
        machine.memory.fill(0x55);
        machine.life += 1;
        machine.working = None;
        machine.hung = None;
        machine.delivered.clear();
        machine.deaf_since = [None; PEERS];
        machine.clock.offset_us = self.random.below(1 << 40);
        note!(self, "{device} starts");
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
                note!(self, "{device} is connected over wire {wire} by {connection}");
                if self.connections[wire] == Some(connection) {
                    let link = self.link_of(wire, device);
                    self.tick(device);
                    self.machines[device].node.iter_mut().for_each(|node| node.on_connected(link));
                    self.go(device);
                }
            }
            Event::Closed { wire, device, connection } => {
                note!(self, "{device} hears that connection {connection} of wire {wire} is closed");
                if self.connections[wire].is_none_or(|current| current == connection) {
                    let link = self.link_of(wire, device);
                    self.tick(device);
                    self.machines[device].node.iter_mut().for_each(|node| node.on_closed(link));
                    self.go(device);
                }
            }
            Event::Feed => self.feed(),
            Event::Begin(fault, lasts) => {
                note!(self, "begins: {fault:?} for {lasts}");
                self.begin(&fault);
                self.at(self.now + lasts, Event::End(fault));
            }
            Event::End(fault) => {
                note!(self, "ends: {fault:?}");
                self.end(&fault);
            }
            Event::Look => {
                self.look();
                self.at(self.now + 20_000, Event::Look);
            }
        }
    }

    pub(super) fn tick(&mut self, device: usize) {
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
        note!(self, "input {tag} in {budget} us");
        let answers = vec![None; self.cluster.routes.len()];
        let (deadline, accepted_at) = (self.now + budget, self.now);
        self.asked.insert(tag, Asked { input, answers, deadline, accepted_at });
        self.go(lead);
    }

    /// A device does all that there is to do.
    pub(super) fn go(&mut self, device: usize) {
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
                let (taken, step) = (&cluster.routes[usize::from(route)], usize::from(step));
                if step == 0 {
                    machine.left_at = None;
                }
                let (bytes, leaves) = taken.compute(cluster, device, step, &machine.memory);
                read =
                    taken.read(device, step).into_iter().map(|at| (at.clone(), machine.memory[at].to_vec())).collect();
                // Whoever sends what this writes over, or writes what this reads, is found out.
                machine.memory[taken.written(device, step)].fill(0xaa);
                (result, exit) = ((taken.written(device, step), bytes), leaves);
                machine.left_at = leaves.map(|exit| (step, exit));
            }
            Work::Deliver { .. } | Work::Nothing => {}
        }
        self.number += 1;
        let (token, life) = (self.number, machine.life);
        machine.working = Some(Working { token, work, read, result, exit });
        let took = match work {
            Work::Compute { route, step } => match self.steady_us {
                Some(_) if cluster.prepares(device, route, step) => 1,
                Some(took) => took,
                None => 1 + self.random.below(2 * self.compute_us),
            },
            _ => 1 + self.random.below(50),
        };
        let done = Event::Done { device, life, token };
        if self.machines[device].hangs {
            (self.machines[device].hung, self.machines[device].hung_since) = (Some(done), Some(self.now));
        } else {
            self.at(self.now + took, done);
        }
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
        if let Work::Deliver { input, route, .. } = working.work {
            let (left, taken) = (machine.left_at, &cluster.routes[usize::from(route)]);
            let answer = taken.answer(device, left.map_or(usize::MAX, |(step, _)| step), &machine.memory);
            let twice = machine.delivered.insert(input, (route, left.map(|(_, exit)| exit))).is_some();
            self.summary.delivered += 1;
            note!(self, "{device} delivers input {input} of route {route}");
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
}
