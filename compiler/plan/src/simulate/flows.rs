//! Messages under way. What one device sends leaves in order, as long as its operating system takes it at once; longer
//! messages, and those of different devices, share media fairly.

use std::collections::{BTreeMap, HashMap};

use partita_config::{Cluster, System, Topology};

/// Beyond this many messages under way, rates are recomputed only when all of one moment have ended.
const EXACT_FLOWS: usize = 400;

/// What an operating system takes of messages at once, and sends while its device computes on: what Linux gives a
/// socket to begin with, roughly.
const SOCKET_BUFFER_BYTES: f64 = 65536.0;

/// Less than this is rounding.
const ROUNDING_BYTES: f64 = 1e-3;

/// Beyond this many messages under way, they leave fairly rather than in order: who is first matters little then, and
/// they end at few moments.
const ORDERED_FLOWS: usize = 40;

/// Inference and number of a message.
type Key = (u32, u32);

struct Flow {
    key: Key,
    /// From whom to whom.
    pair: (usize, usize),
    medium: usize,
    /// Whether its sender's operating system takes it at once.
    short: bool,
    left_bytes: f64,
    begin: f64,
    latency: f64,
    /// Shared capacities it uses.
    resources: [usize; 4],
    rate: f64,
}

impl Flow {
    /// The capacities that it uses, each once.
    fn uses(&self) -> impl Iterator<Item = usize> + use<> {
        let resources = self.resources;
        (0..resources.len()).filter(move |at| !resources[..*at].contains(&resources[*at])).map(move |at| resources[at])
    }
}

/// Messages from one device to another.
#[derive(Clone, Copy, Default)]
struct Queue {
    messages: u32,
    left_bytes: f64,
}

/// All messages under way.
pub struct Flows<'a> {
    cluster: &'a Cluster,
    capacities: Vec<f64>,
    /// Ports, buses and wires that have carried something, as indices of capacities: by medium and two numbers.
    named: BTreeMap<(usize, usize, usize), usize>,
    active: Vec<Flow>,
    /// From whom to whom every message under way goes.
    under_way: BTreeMap<Key, (usize, usize)>,
    /// Messages under way of each pair, and what is left of them.
    queues: HashMap<(usize, usize), Queue>,
    now: f64,
    stale: bool,
}

impl<'a> Flows<'a> {
    /// The media of a cluster, idle.
    pub fn new(cluster: &'a Cluster) -> Flows<'a> {
        // Processors of both ends come first.
        let capacities = cluster.devices.iter().map(|device| device.target.rate.link_bytes_per_second).collect();
        let (active, under_way, queues) = (Vec::new(), BTreeMap::new(), HashMap::new());
        Flows { cluster, capacities, named: BTreeMap::new(), active, under_way, queues, now: 0.0, stale: false }
    }

    /// Index of a shared capacity.
    fn capacity(&mut self, name: (usize, usize, usize), rate: f64) -> usize {
        *self.named.entry(name).or_insert_with(|| {
            self.capacities.push(rate);
            self.capacities.len() - 1
        })
    }

    /// A message sets out at `begin`.
    pub fn start(&mut self, key: Key, from: usize, to: usize, bytes: u64, begin: f64) {
        let devices = self.cluster.devices.len();
        let Some(link) = self.cluster.link(from, to) else { return };
        let medium = self.cluster.media[link.medium];
        let (half, rate) = (medium.half_duplex, link.bytes_per_second);
        let (out, into) = match medium.topology {
            // Ports: one name for both directions of a half-duplex one.
            Topology::Switch => {
                let out = self.capacity((link.medium, from, 0), rate);
                (out, self.capacity((link.medium, to, usize::from(!half)), rate))
            }
            Topology::Bus => {
                let bus = self.capacity((link.medium, devices, 0), rate);
                (bus, bus)
            }
            Topology::PointToPoint => {
                let wire = if half { link.between } else { (from, to) };
                let wire = self.capacity((link.medium, devices + 1 + wire.0, wire.1), rate);
                (wire, wire)
            }
        };
        let (latency, resources) = (link.latency_ms * 1e-3, [from, to, out, into]);
        let (pair, medium, short) = ((from, to), link.medium, bytes as f64 <= SOCKET_BUFFER_BYTES);
        self.active.push(Flow {
            key,
            pair,
            medium,
            short,
            left_bytes: bytes as f64,
            begin,
            latency,
            resources,
            rate: 0.0,
        });
        self.under_way.insert(key, pair);
        let queue = self.queues.entry(pair).or_default();
        (queue.messages, queue.left_bytes) = (queue.messages + 1, queue.left_bytes + bytes as f64);
        self.stale = true;
    }

    /// Whether the sender of a message has to wait: it has not left, nor has the sender's operating system it all.
    pub fn holds_back(&self, key: Key) -> bool {
        self.under_way.get(&key).is_some_and(|pair| self.waiting_bytes(*pair) > ROUNDING_BYTES)
    }

    /// Bytes of a pair that its sender's operating system has not taken yet.
    fn waiting_bytes(&self, pair: (usize, usize)) -> f64 {
        let buffer = match self.cluster.devices[pair.0].target.system {
            System::Linux => SOCKET_BUFFER_BYTES,
            System::CortexM => 0.0,
        };
        self.queues.get(&pair).map_or(0.0, |queue| queue.left_bytes - buffer)
    }

    /// When the next message ends, sets out, or lets its sender go on, after `now`.
    pub fn next_end(&mut self, now: f64) -> Option<f64> {
        self.share(now);
        let time = |flow: &Flow| {
            let waiting = self.waiting_bytes(flow.pair);
            let bytes = if waiting > ROUNDING_BYTES { waiting.min(flow.left_bytes) } else { flow.left_bytes };
            // Late in a long inference, what is left of a fast message may take less than the clock can tell.
            let end = (now + (bytes / flow.rate.max(1e-9)).max(0.0)).max(now.next_up());
            if flow.begin > now { flow.begin } else { end }
        };
        self.active.iter().map(time).min_by(f64::total_cmp)
    }

    /// Moves everything to `now`; the messages that have left, with the latency after which they arrive.
    pub fn advance(&mut self, now: f64) -> Vec<(Key, f64)> {
        self.share(self.now);
        let elapsed = now - self.now;
        for flow in self.active.iter_mut().filter(|flow| flow.begin <= self.now) {
            let passed = flow.rate * elapsed;
            flow.left_bytes -= passed;
            if let Some(queue) = self.queues.get_mut(&flow.pair) {
                queue.left_bytes -= passed;
            }
        }
        let crossed = |begin: f64, from: f64| begin > from && begin <= now;
        self.stale |= self.active.iter().any(|flow| crossed(flow.begin, self.now));
        self.now = now;
        // A millionth of a byte is rounding, and so is what passes while the clock cannot tell two moments apart.
        let ended = |flow: &Flow| {
            let rounding = flow.rate * (1e-3_f64).max(now * 1e-9);
            flow.begin <= now && flow.left_bytes <= 1e-6 * (1.0 + rounding)
        };
        let left: Vec<(Key, f64)> =
            self.active.iter().filter(|flow| ended(flow)).map(|flow| (flow.key, flow.latency)).collect();
        if !left.is_empty() {
            for flow in self.active.iter().filter(|flow| ended(flow)) {
                self.under_way.remove(&flow.key);
                if let Some(queue) = self.queues.get_mut(&flow.pair) {
                    (queue.messages, queue.left_bytes) = (queue.messages - 1, queue.left_bytes - flow.left_bytes);
                }
            }
            self.queues.retain(|_, queue| queue.messages > 0);
            self.active.retain(|flow| !ended(flow));
            self.stale = true;
        }
        left
    }

    /// Rates of everything under way: what is in front of a device's queue shares the media fairly, what is behind gets
    /// what that leaves, and so on.
    fn share(&mut self, now: f64) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let open: Vec<usize> = (0..self.active.len()).filter(|flow| self.active[*flow].begin <= now).collect();
        if open.len() > EXACT_FLOWS {
            self.share_by_count(&open);
            return;
        }
        let mut room = self.capacities.clone();
        if open.len() > ORDERED_FLOWS {
            self.share_fairly(open, &mut room);
            return;
        }
        // In front of a message are the short ones of its sender on that medium, and the long ones of its pair.
        let (mut short, mut long): (HashMap<_, usize>, HashMap<_, usize>) = (HashMap::new(), HashMap::new());
        let mut levels: Vec<Vec<usize>> = Vec::new();
        for at in open {
            let flow = &self.active[at];
            let (before, alike) =
                (short.entry((flow.pair.0, flow.medium)).or_default(), long.entry(flow.pair).or_default());
            let level = *before + *alike;
            *(if flow.short { before } else { alike }) += 1;
            levels.resize(levels.len().max(level + 1), Vec::new());
            levels[level].push(at);
        }
        for level in levels {
            self.share_fairly(level, &mut room);
        }
    }

    /// Max-min fair rates: the capacity with the least per message is filled first.
    fn share_fairly(&mut self, mut open: Vec<usize>, room: &mut [f64]) {
        while !open.is_empty() {
            let mut users = vec![0u32; room.len()];
            for flow in &open {
                self.active[*flow].uses().for_each(|resource| users[resource] += 1);
            }
            let each = |resource: usize| room[resource] / f64::from(users[resource]);
            let used = (0..room.len()).filter(|resource| users[*resource] > 0);
            let Some(tightest) = used.min_by(|a, b| each(*a).total_cmp(&each(*b))) else { return };
            let rate = each(tightest);
            let (full, rest): (Vec<usize>, Vec<usize>) =
                open.into_iter().partition(|flow| self.active[*flow].resources.contains(&tightest));
            for flow in full {
                let flow = &mut self.active[flow];
                flow.rate = rate;
                flow.uses().for_each(|resource| room[resource] = (room[resource] - rate).max(0.0));
            }
            open = rest;
        }
    }

    /// An equal share of the most crowded capacity, for very many messages.
    fn share_by_count(&mut self, open: &[usize]) {
        let mut users = vec![0u32; self.capacities.len()];
        for flow in open {
            let [from, to, out, into] = self.active[*flow].resources;
            users[from] += 1;
            users[to] += 1;
            users[out] += 1;
            users[into] += u32::from(into != out);
        }
        for flow in open {
            let flow = &mut self.active[*flow];
            let share = |resource: &usize| self.capacities[*resource] / f64::from(users[*resource].max(1));
            flow.rate = flow.resources.iter().map(share).fold(f64::INFINITY, f64::min);
        }
    }
}
