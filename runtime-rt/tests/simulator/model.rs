//! Clusters and networks made of a seed: devices, links, routes, and programs whose answers are known.

use partita_rt::node::random::Random;
use partita_rt::node::{Medium, Part, Peer, Step};

/// Bytes of an input.
pub const INPUT_BYTES: usize = 32;

/// What a step that computes does. Programs work on two states in turn: a step reads one, with what came, and writes the
/// other.
#[derive(Clone, Debug)]
pub enum Compute {
    /// The first state, of the input where there is one.
    Begin,
    /// The next state, of the last and of what came: offset and length of each part.
    Mix { round: usize, came: Vec<(usize, usize)> },
    /// Whether the inference leaves, where the verdict says so.
    Leave,
}

/// One step with its phase: all devices finish a phase's computations before its tensors travel.
#[derive(Clone, Debug)]
pub enum Op {
    Compute(usize, Compute),
    Exchange(usize, Vec<Part>, Vec<Part>),
}

/// A link between two devices.
#[derive(Clone, Debug)]
pub struct Wire {
    pub ends: (usize, usize),
    pub medium: Medium,
    pub chunk_bytes: u16,
    pub bytes_per_second: f64,
    pub latency_us: u64,
    pub jitter_us: u64,
}

/// A route: who takes part, and what each does.
#[derive(Clone, Debug)]
pub struct ModelRoute {
    pub number: usize,
    pub devices: Vec<usize>,
    pub pairs: Vec<(u8, u8)>,
    pub programs: Vec<Vec<Op>>,
    state_bytes: usize,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub devices: usize,
    pub input: usize,
    pub output: usize,
    pub wires: Vec<Wire>,
    pub routes: Vec<ModelRoute>,
}

/// Largest state.
const MOST_STATE: usize = 4096;
/// Where things lie in a device's memory.
const INPUT_AT: usize = 0;
const VERDICT_AT: usize = INPUT_BYTES;
const STATES_AT: usize = INPUT_BYTES + 16;
const SLOTS_AT: usize = STATES_AT + 2 * MOST_STATE;

/// Bytes of a device's memory.
pub fn memory_bytes(devices: usize) -> usize {
    SLOTS_AT + devices * MOST_STATE
}

fn state_at(round: usize) -> usize {
    STATES_AT + (round % 2) * MOST_STATE
}

impl Cluster {
    /// A cluster of two to five devices, all of them connected.
    pub fn new(random: &mut Random) -> Cluster {
        let devices = 2 + random.below(4) as usize;
        let (input, output) = (random.below(devices as u64) as usize, random.below(devices as u64) as usize);
        let mut wires = Vec::new();
        let slow = random.below(4) == 0;
        for b in 1..devices {
            let tree = random.below(b as u64) as usize;
            for a in 0..b {
                if a == tree || random.below(3) == 0 {
                    wires.push(wire((a, b), slow, random));
                }
            }
        }
        let mut cluster = Cluster { devices, input, output, wires, routes: Vec::new() };
        let everybody: Vec<usize> = (0..devices).collect();
        let mut routes = vec![cluster.route(0, &everybody, random)];
        for _ in 0..random.below(4) {
            let some: Vec<usize> =
                everybody.iter().copied().filter(|at| [input, output].contains(at) || random.below(2) == 0).collect();
            if cluster.path(&some).is_some() {
                routes.push(cluster.route(routes.len(), &some, random));
            }
        }
        cluster.routes = routes;
        cluster
    }

    /// Three devices, each of which computes once and hands on.
    pub fn pipeline(random: &mut Random) -> Cluster {
        let wire = |a: usize| Wire {
            ends: (a, a + 1),
            medium: Medium::Connection,
            chunk_bytes: 1024,
            bytes_per_second: 12e6,
            latency_us: 100,
            jitter_us: 0,
        };
        let part = |peer: usize, at: usize| {
            let (peer, offset_bytes) = (peer as u8, at as u32);
            Part { peer, message: 0, offset_bytes, bytes: 2000, bound: 0 }
        };
        let slot = |from: usize| SLOTS_AT + from * MOST_STATE;
        let sends = |device: usize, round| Part { message: device as u16, ..part(device + 1, state_at(round)) };
        let comes = |device: usize| Part { message: device as u16 - 1, ..part(device - 1, slot(device - 1)) };
        let begin = Op::Compute(0, Compute::Begin);
        let mix = |device: usize| Op::Compute(device, Compute::Mix { round: 0, came: vec![(slot(device - 1), 2000)] });
        let mut programs = vec![
            vec![begin.clone(), Op::Exchange(0, vec![sends(0, 0)], vec![])],
            vec![
                begin.clone(),
                Op::Exchange(0, vec![], vec![comes(1)]),
                mix(1),
                Op::Exchange(1, vec![sends(1, 1)], vec![]),
            ],
            vec![begin, Op::Exchange(1, vec![], vec![comes(2)]), mix(2)],
        ];
        programs.iter_mut().for_each(|program| bounds(program, random));
        let pairs = vec![(0, 1), (1, 2)];
        let route = ModelRoute { number: 0, devices: vec![0, 1, 2], pairs, programs, state_bytes: 2048 };
        Cluster { devices: 3, input: 0, output: 2, wires: vec![wire(0), wire(1)], routes: vec![route] }
    }

    /// Whether a step only prepares.
    pub fn prepares(&self, device: usize, route: u8, step: u16) -> bool {
        let op = &self.routes[usize::from(route)].programs[device][usize::from(step)];
        device != self.input && matches!(op, Op::Compute(_, Compute::Begin))
    }

    pub fn wire(&self, a: usize, b: usize) -> Option<usize> {
        self.wires.iter().position(|wire| wire.ends == (a.min(b), a.max(b)))
    }

    /// The shortest path from input to output among some devices.
    fn path(&self, among: &[usize]) -> Option<Vec<usize>> {
        let mut paths = vec![vec![self.input]];
        let mut seen = vec![self.input];
        while let Some(path) = (!paths.is_empty()).then(|| paths.remove(0)) {
            let last = *path.last()?;
            if last == self.output {
                return Some(path);
            }
            for next in among.iter().filter(|next| self.wire(last, **next).is_some()) {
                if !seen.contains(next) {
                    seen.push(*next);
                    paths.push([path.clone(), vec![*next]].concat());
                }
            }
        }
        None
    }

    /// A route over some devices: the input's path to the output, and whatever else travels.
    fn route(&self, number: usize, devices: &[usize], random: &mut Random) -> ModelRoute {
        let path = self.path(devices).expect("checked before, and the whole cluster is connected");
        let state_bytes = match random.below(6) {
            0 | 1 => 8 + random.below(56) as usize,
            2..=4 => 64 + random.below(600) as usize,
            _ => 1 + random.below(MOST_STATE as u64) as usize,
        };
        let linked = |a: &usize, b: &usize| a != b && self.wire(*a, *b).is_some();
        let verdict = random.below(2) == 0 && devices.iter().all(|at| *at == self.input || linked(at, &self.input));
        let rounds = (path.len() - 1).max(1) + random.below(2) as usize;
        let mut programs: Vec<Vec<Op>> = vec![Vec::new(); self.devices];
        let (mut message, mut pairs) = (0u16, Vec::new());
        let mut phase = 0;
        devices.iter().for_each(|at| programs[*at].push(Op::Compute(0, Compute::Begin)));
        for round in 0..rounds {
            let mut transfers: Vec<(usize, usize)> = Vec::new();
            transfers.extend(path.get(round).copied().zip(path.get(round + 1).copied()));
            for a in devices {
                for b in devices.iter().filter(|b| linked(a, b)) {
                    if random.below(4) == 0 && !transfers.contains(&(*a, *b)) {
                        transfers.push((*a, *b));
                    }
                }
            }
            let mut lists = vec![(Vec::new(), Vec::new()); self.devices];
            for (from, to) in &transfers {
                let bytes = 1 + random.below(state_bytes as u64) as usize;
                let part = |peer: usize, at: usize| Part {
                    peer: peer as u8,
                    message,
                    offset_bytes: at as u32,
                    bytes: bytes as u32,
                    bound: 0,
                };
                lists[*from].0.push(part(*to, state_at(round)));
                lists[*to].1.push(part(*from, SLOTS_AT + from * MOST_STATE));
                pairs.push((*from.min(to) as u8, *from.max(to) as u8));
                message += 1;
            }
            for at in devices {
                let (sends, receives) = std::mem::take(&mut lists[*at]);
                let came =
                    receives.iter().map(|part: &Part| (part.offset_bytes as usize, part.bytes as usize)).collect();
                if !sends.is_empty() || !receives.is_empty() {
                    programs[*at].push(Op::Exchange(phase, sends, receives));
                }
                programs[*at].push(Op::Compute(phase + 1, Compute::Mix { round, came }));
            }
            phase += 1;
            if verdict && round == 0 {
                let mut sends = Vec::new();
                for at in devices.iter().filter(|at| **at != self.input) {
                    let part = Part { peer: *at as u8, message, offset_bytes: VERDICT_AT as u32, bytes: 8, bound: 0 };
                    sends.push(part);
                    programs[*at].push(Op::Exchange(phase, vec![], vec![Part { peer: self.input as u8, ..part }]));
                    pairs.push((*at.min(&self.input) as u8, *at.max(&self.input) as u8));
                    message += 1;
                }
                if !sends.is_empty() {
                    programs[self.input].push(Op::Exchange(phase, sends, vec![]));
                }
                phase += 1;
                devices.iter().for_each(|at| programs[*at].push(Op::Compute(phase, Compute::Leave)));
            }
        }
        programs.iter_mut().for_each(|program| bounds(program, random));
        pairs.sort();
        pairs.dedup();
        ModelRoute { number, devices: devices.to_vec(), pairs, programs, state_bytes }
    }
}

fn wire(ends: (usize, usize), slow: bool, random: &mut Random) -> Wire {
    let medium = match random.below(5) {
        0 | 1 => Medium::Connection,
        2 | 3 => Medium::Datagrams,
        _ => Medium::Line,
    };
    let (rate, chunk) = match (medium, slow) {
        (Medium::Line, _) => (50_000 + random.below(200_000), 64),
        (_, true) => (200_000 + random.below(300_000), 256),
        _ => (1_000_000 + random.below(20_000_000), 128 << random.below(4)),
    };
    let latency_us = if slow { 200 + random.below(5_000) } else { 20 + random.below(1_000) };
    let jitter_us = random.below(1 + latency_us);
    Wire { ends, medium, chunk_bytes: chunk as u16, bytes_per_second: rate as f64, latency_us, jitter_us }
}

/// Says for each part when its memory is written over, or free; as tight as it is, or looser.
fn bounds(program: &mut [Op], random: &mut Random) {
    let reads: Vec<Option<Vec<usize>>> = program
        .iter()
        .map(|op| match op {
            Op::Compute(_, Compute::Mix { came, .. }) => Some(came.iter().map(|(at, _)| *at).collect()),
            _ => None,
        })
        .collect();
    let writes: Vec<Option<usize>> = program
        .iter()
        .map(|op| match op {
            Op::Compute(_, Compute::Mix { round, .. }) => Some(state_at(round + 1)),
            Op::Compute(_, Compute::Begin) => Some(state_at(0)),
            _ => None,
        })
        .collect();
    let end = program.len();
    for (step, op) in program.iter_mut().enumerate() {
        let Op::Exchange(_, sends, receives) = op else { continue };
        for part in sends {
            let at = part.offset_bytes as usize;
            let over = (step + 1..end).find(|later| writes[*later] == Some(at)).unwrap_or(end);
            part.bound = (step + 1 + random.below((over - step) as u64) as usize) as u16;
        }
        for part in receives {
            let at = part.offset_bytes as usize;
            let used = |earlier: &usize| reads[*earlier].as_ref().is_some_and(|came| came.contains(&at));
            let free = (0..step).rev().find(used).map_or(0, |last| last + 1);
            part.bound = (free + random.below((step - free + 1) as u64) as usize) as u16;
        }
    }
}

impl ModelRoute {
    /// The devices that do nothing on this route.
    pub fn absent(&self, cluster: &Cluster) -> Vec<u8> {
        (0..cluster.devices).filter(|at| !self.devices.contains(at)).map(|at| at as u8).collect()
    }

    /// Steps of a device as its node's plan has them.
    pub fn steps(&self, device: usize) -> Vec<Step<'_>> {
        self.programs[device]
            .iter()
            .map(|op| match op {
                Op::Compute(..) => Step::Compute,
                Op::Exchange(_, sends, receives) => Step::Exchange { sends, receives },
            })
            .collect()
    }

    /// The range that a step writes.
    pub fn written(&self, device: usize, step: usize) -> std::ops::Range<usize> {
        let at = match &self.programs[device][step] {
            Op::Compute(_, Compute::Begin) => state_at(0),
            Op::Compute(_, Compute::Mix { round, .. }) => state_at(round + 1),
            _ => return 0..0,
        };
        at..at + self.state_bytes
    }

    /// The ranges that a step reads.
    pub fn read(&self, device: usize, step: usize) -> Vec<std::ops::Range<usize>> {
        match &self.programs[device][step] {
            Op::Compute(_, Compute::Begin) => std::iter::once(INPUT_AT..INPUT_AT + INPUT_BYTES).collect(),
            Op::Compute(_, Compute::Mix { round, came }) => {
                let state = state_at(*round)..state_at(*round) + self.state_bytes;
                came.iter().map(|(at, bytes)| *at..at + bytes).chain([state]).collect()
            }
            Op::Compute(_, Compute::Leave) => std::iter::once(VERDICT_AT..VERDICT_AT + 8).collect(),
            Op::Exchange(..) => vec![],
        }
    }

    /// What a step writes, and the exit if the inference leaves there.
    pub fn compute(&self, cluster: &Cluster, device: usize, step: usize, memory: &[u8]) -> (Vec<u8>, Option<u32>) {
        let salt = (self.number * 64 + device) as u8;
        match &self.programs[device][step] {
            Op::Compute(_, Compute::Begin) => {
                let input = &memory[INPUT_AT..INPUT_AT + INPUT_BYTES];
                let of = |at: usize| if device == cluster.input { input[at % INPUT_BYTES] } else { 1 };
                let state = (0..self.state_bytes).map(|at| of(at).wrapping_mul(13).wrapping_add(salt ^ at as u8));
                (state.collect(), None)
            }
            Op::Compute(_, Compute::Mix { round, came }) => {
                let old = &memory[state_at(*round)..state_at(*round) + self.state_bytes];
                let mut state: Vec<u8> = old
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| byte.wrapping_mul(29).wrapping_add(salt ^ at as u8))
                    .collect();
                for (offset, bytes) in came {
                    let part = &memory[*offset..offset + bytes];
                    for stretch in state.chunks_mut(*bytes) {
                        for (byte, other) in stretch.iter_mut().zip(part) {
                            *byte = byte.rotate_left(3) ^ other.wrapping_mul(7);
                        }
                    }
                }
                (state, None)
            }
            Op::Compute(_, Compute::Leave) => (vec![], (memory[VERDICT_AT] % 3 == 0).then_some(1)),
            Op::Exchange(..) => (vec![], None),
        }
    }

    /// The answer in a device's memory, after so many steps.
    pub fn answer(&self, device: usize, steps: usize, memory: &[u8]) -> Vec<u8> {
        let mixed = |op: &&Op| matches!(op, Op::Compute(_, Compute::Mix { .. }));
        let at = state_at(self.programs[device].iter().take(steps).filter(mixed).count());
        memory[at..at + self.state_bytes].to_vec()
    }

    /// What the output device answers, without any network: everybody does everything in order.
    pub fn reference(&self, cluster: &Cluster, input: &[u8]) -> (Vec<u8>, Option<u32>) {
        let mut memories = vec![vec![0u8; memory_bytes(cluster.devices)]; cluster.devices];
        load(&mut memories[cluster.input], input);
        let phases = 2 + self.programs.iter().map(Vec::len).max().unwrap_or(0);
        let mut left: Vec<Option<(usize, u32)>> = vec![None; cluster.devices];
        for phase in 0..phases {
            for device in 0..cluster.devices {
                for (step, op) in self.programs[device].iter().enumerate() {
                    if left[device].is_none() && matches!(op, Op::Compute(of, _) if *of == phase) {
                        let (bytes, exit) = self.compute(cluster, device, step, &memories[device]);
                        memories[device][self.written(device, step)].copy_from_slice(&bytes);
                        left[device] = exit.map(|exit| (step, exit));
                    }
                }
            }
            if left.iter().any(Option::is_some) {
                break;
            }
            for from in 0..cluster.devices {
                for op in &self.programs[from] {
                    let Op::Exchange(of, sends, _) = op else { continue };
                    for part in sends.iter().filter(|_| *of == phase) {
                        let at = part.offset_bytes as usize;
                        let bytes = memories[from][at..at + part.bytes as usize].to_vec();
                        let to = usize::from(part.peer);
                        let place = self.place(to, part.message);
                        memories[to][place..place + bytes.len()].copy_from_slice(&bytes);
                    }
                }
            }
        }
        let steps = left[cluster.output].map_or(usize::MAX, |(step, _)| step);
        (self.answer(cluster.output, steps, &memories[cluster.output]), left[cluster.output].map(|(_, exit)| exit))
    }

    fn place(&self, device: usize, message: u16) -> usize {
        let receives = self.programs[device].iter().flat_map(|op| match op {
            Op::Exchange(_, _, receives) => receives.as_slice(),
            Op::Compute(..) => &[],
        });
        receives.into_iter().find(|part| part.message == message).map_or(0, |part| part.offset_bytes as usize)
    }
}

/// Puts an input where programs expect it, and the verdict that goes with it.
pub fn load(memory: &mut [u8], input: &[u8]) {
    memory[INPUT_AT..INPUT_AT + INPUT_BYTES].copy_from_slice(input);
    memory[VERDICT_AT..VERDICT_AT + 8].copy_from_slice(&input[..8]);
}

/// Peers of a device, in the order of wires.
pub fn peers(cluster: &Cluster, device: usize) -> Vec<Peer> {
    let wires = cluster.wires.iter().filter(|wire| wire.ends.0 == device || wire.ends.1 == device);
    let peer = |wire: &Wire| Peer {
        device: (if wire.ends.0 == device { wire.ends.1 } else { wire.ends.0 }) as u8,
        medium: wire.medium,
        chunk_bytes: wire.chunk_bytes,
        calls: wire.ends.1 == device,
    };
    wires.map(peer).collect()
}
