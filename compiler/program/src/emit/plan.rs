//! What a device's node knows of its plan, as data for `crate/plan.rs.j2`.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::emit::model::{ModelContext, is_firmware};
use crate::memory::{Bounds, bounds};
use crate::program::{Message, Program, Step};
use partita_config::{DATAGRAM_PAYLOAD_BYTES, Link, Transport};

/// Shortest time after which a silent peer is lost, in microseconds.
const LEAST_DETECT_US: u32 = 300_000;

/// Longest; it is the same for all devices.
const MOST_DETECT_US: f64 = 60e6;

/// On a microcontroller a step may well compute for longer than others wait for a sign of life, which an interrupt gives; but
/// not longer than this.
const LONGEST_STEP_US: u32 = 60_000_000;

/// Smallest and largest payload of a tensor's frame: on a connection, and where single bytes come slowly.
const CHUNK_BYTES: (f64, f64) = (256.0, 32_768.0);

/// A device's plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlanText {
    device: usize,
    input: usize,
    output: usize,
    detect_us: u32,
    hung_us: u32,
    peers: Vec<PeerText>,
    /// Whether it exchanges tensors on any route.
    exchanges: bool,
    routes: Vec<RouteText>,
}

#[derive(Clone, Debug, Serialize)]
struct PeerText {
    device: usize,
    medium: &'static str,
    chunk_bytes: u16,
    calls: bool,
}

#[derive(Clone, Debug, Serialize)]
struct RouteText {
    number: usize,
    devices: u64,
    links: Vec<(usize, usize)>,
    steps: Vec<StepText>,
}

/// A step; one that computes has no lists.
#[derive(Clone, Debug, Serialize)]
struct StepText {
    exchanges: bool,
    sends: Vec<PartText>,
    receives: Vec<PartText>,
}

#[derive(Clone, Debug, Serialize)]
struct PartText {
    peer: usize,
    message: u32,
    offset_bytes: usize,
    bytes: usize,
    bound: usize,
}

/// Numbers of a plan's devices among nodes: those that take part, in the order of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a>(pub &'a [usize]);

impl Numbers<'_> {
    /// Of a device of the cluster; none if it takes no part.
    pub fn of(self, device: usize) -> Option<usize> {
        self.0.iter().position(|other| *other == device)
    }

    /// Of several; those that take no part are left out.
    pub fn all(self, devices: &[usize]) -> Vec<usize> {
        devices.iter().filter_map(|device| self.of(*device)).collect()
    }
}

/// Microseconds without a sign of life after which a peer is lost: three of the longest times that an answer may take.
pub fn detect_us(max_latency_ms: Option<f64>) -> u32 {
    let three = max_latency_ms.map_or(0.0, |milliseconds| (3e3 * milliseconds).min(MOST_DETECT_US)) as u32;
    three.max(LEAST_DETECT_US)
}

/// The plan of a device with these programs, one per route, and these peers of the cluster.
pub fn plan_text(programs: &[&Program], peers: &[usize], numbers: Numbers<'_>, context: &ModelContext<'_>) -> PlanText {
    let number = |device: usize| numbers.of(device).unwrap_or(0);
    let own = programs.first().map_or(0, |program| program.device);
    let cluster = context.cluster;
    let detect_us = detect_us(cluster.max_latency_ms);
    let peer = |peer: &usize| {
        let link = cluster.link(own, *peer);
        PeerText {
            device: number(*peer),
            medium: match link.map(|link| link.transport) {
                Some(Transport::Uart) => "Line",
                Some(Transport::Udp) => "Datagrams",
                Some(Transport::Tcp) | None => "Connection",
            },
            chunk_bytes: chunk_bytes(link, detect_us),
            calls: own > *peer,
        }
    };
    let routes = programs.iter().zip(&context.routes).enumerate().map(|(at, (program, route))| {
        let links = pairs(route.programs).iter().map(|(a, b)| (number(*a), number(*b))).collect();
        // The device with the input begins every inference.
        let busy = route.programs.iter().filter(|program| !program.steps.is_empty()).map(|program| program.device);
        let devices = busy.chain([cluster.input]).filter_map(|device| numbers.of(device));
        RouteText {
            number: at,
            devices: devices.fold(0, |devices, at| devices | 1 << (at % 64)),
            links,
            steps: steps(program, number),
        }
    });
    PlanText {
        device: number(own),
        input: number(cluster.input),
        output: number(cluster.output),
        detect_us,
        hung_us: if is_firmware(&cluster.devices[own].target) { LONGEST_STEP_US } else { 0 },
        peers: peers.iter().map(peer).collect(),
        exchanges: programs.iter().flat_map(|program| &program.steps).any(|step| matches!(step, Step::Exchange { .. })),
        routes: routes.collect(),
    }
}

/// Signs of life wait behind a chunk, so it takes no longer than they may come late. A datagram holds one, and no more.
fn chunk_bytes(link: Option<&Link>, detect_us: u32) -> u16 {
    let rate = link.map_or(f64::INFINITY, |link| link.bytes_per_second);
    let is_datagram = link.is_some_and(|link| link.transport == Transport::Udp);
    let most = if is_datagram { f64::from(DATAGRAM_PAYLOAD_BYTES) } else { CHUNK_BYTES.1 };
    let bytes = (rate * f64::from(detect_us) * 1e-6 / 10.0).clamp(CHUNK_BYTES.0, most);
    (bytes / 64.0).floor() as u16 * 64
}

/// Pairs of devices that exchange tensors, the lower first.
fn pairs(programs: &[Program]) -> BTreeSet<(usize, usize)> {
    let steps = programs.iter().flat_map(|program| program.steps.iter().map(|step| (program.device, step)));
    let pairs = steps.flat_map(|(device, step)| match step {
        Step::Exchange { sends, .. } => {
            sends.iter().map(|send| (device.min(send.peer), device.max(send.peer))).collect()
        }
        Step::Kernel { .. }
        | Step::Reference { .. }
        | Step::Reorder { .. }
        | Step::Copy { .. }
        | Step::Start { .. }
        | Step::Leave { .. } => Vec::new(),
    });
    pairs.collect()
}

fn steps(program: &Program, number: impl Fn(usize) -> usize) -> Vec<StepText> {
    let part = |(message, bound): (&Message, &usize)| PartText {
        peer: number(message.peer),
        message: message.number,
        offset_bytes: program.buffers[message.buffer.0 as usize].offset_bytes,
        bytes: message.bytes,
        bound: *bound,
    };
    let started = program.started_sends();
    let text = |(step, bounds): (&Step, Bounds)| match step {
        // A node sends what it has come to while it computes on, and takes what comes as soon as its place is free.
        Step::Start { sends, .. } => StepText {
            exchanges: true,
            sends: sends.iter().zip(&bounds.sends).map(part).collect(),
            receives: Vec::new(),
        },
        Step::Exchange { sends, receives } => StepText {
            exchanges: true,
            sends: (sends.iter().zip(&bounds.sends).filter(|(send, _)| !started.contains(&send.number)))
                .map(part)
                .collect(),
            receives: receives.iter().zip(&bounds.receives).map(part).collect(),
        },
        Step::Kernel { .. }
        | Step::Reference { .. }
        | Step::Reorder { .. }
        | Step::Copy { .. }
        | Step::Leave { .. } => StepText { exchanges: false, sends: Vec::new(), receives: Vec::new() },
    };
    program.steps.iter().zip(bounds(program)).map(text).collect()
}
