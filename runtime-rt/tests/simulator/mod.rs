//! All nodes of a cluster in one process, under virtual time, with faults that a seed decides.

mod events;
pub mod faults;
pub mod model;
pub mod network;
mod promises;
pub mod summary;
pub mod world;

use partita_rt::family::{Condition, Family};
use partita_rt::node::random::Random;
use partita_rt::node::{Medium, Peer, Plan, Route, Step};

use faults::Fault;
use model::Cluster;
use network::Weather;
use summary::Summary;
use world::{DETECT_US, World};

/// Runs one seed; panics if a promise is broken.
pub fn simulate(seed: u64, trace: bool) -> Summary {
    let mut random = Random::new(seed);
    let cluster = Cluster::new(&mut random);
    let weather = weather(&mut random);
    let faults_end = 100_000 + random.below(1_500_000);
    let faults = faults(&cluster, faults_end, &mut random);
    let story = Story { weather, faults, faults_end, inputs: None, steady_us: None, trace };
    simulate_with(seed, &cluster, story, random)
}

/// What happens to a cluster.
pub struct Story {
    pub weather: Weather,
    /// Each with its time and how long it lasts; all is well from `faults_end` on.
    pub faults: Vec<(u64, Fault, u64)>,
    pub faults_end: u64,
    /// When inputs begin and how often they come, and how long they may take; if not as the seed says.
    pub inputs: Option<(u64, u64, u64)>,
    /// How long every step computes, if that is not left to chance.
    pub steady_us: Option<u64>,
    pub trace: bool,
}

/// Runs a cluster through a story.
pub fn simulate_with(seed: u64, cluster: &Cluster, story: Story, mut random: Random) -> Summary {
    let with_family = random.below(2) == 0;
    let peers: Vec<Vec<Peer>> = (0..cluster.devices).map(|device| model::peers(cluster, device)).collect();
    let steps: Vec<Vec<Vec<Step<'_>>>> =
        (0..cluster.devices).map(|device| cluster.routes.iter().map(|route| route.steps(device)).collect()).collect();
    let route = |device: usize, number: usize| Route {
        steps: &steps[device][number],
        devices: cluster.routes[number].devices.iter().fold(0, |devices, at| devices | 1 << at),
        links: &cluster.routes[number].pairs,
    };
    let routes: Vec<Vec<Route<'_>>> = (0..cluster.devices)
        .map(|device| (0..cluster.routes.len()).map(|number| route(device, number)).collect())
        .collect();
    let names: Vec<&str> = cluster.routes.iter().map(|_| "route").collect();
    let media: Vec<(u8, u8, u8)> =
        cluster.wires.iter().zip(0..).map(|(wire, at)| (wire.ends.0 as u8, wire.ends.1 as u8, at)).collect();
    let unneeded: Vec<Vec<u8>> = cluster.routes.iter().map(|route| route.absent(cluster)).collect();
    let rates: Vec<Vec<f32>> = [1.0, 0.3, 0.05]
        .map(|part| cluster.wires.iter().map(|wire| wire.bytes_per_second as f32 * part).collect())
        .into();
    let conditions: Vec<Condition<'_>> = (0..cluster.routes.len())
        .flat_map(|number| rates.iter().map(move |rates| (number, rates)))
        .map(|(number, rates)| Condition {
            missing: &unneeded[number],
            unneeded: &unneeded[number],
            bytes_per_second: rates,
            route: number as u8,
            expected_us: 20_000,
        })
        .collect();
    let family =
        Family { routes: &names, conditions: &conditions, links: &media, closes: cluster.input == cluster.output };
    let plan = |device: usize| Plan {
        hash: 0x1234_5678,
        device: device as u8,
        input: cluster.input as u8,
        output: cluster.output as u8,
        peers: &peers[device],
        routes: &routes[device],
        family: with_family.then_some(&family),
        detect_us: DETECT_US as u32,
        hung_us: 0,
    };
    let plans = (0..cluster.devices).map(plan).collect();
    let mut world = World::new(seed, cluster, plans, story.weather, random);
    world.steady_us = story.steady_us;
    world.trace = story.trace.then(Vec::new);
    if let Some((first, every, budget)) = story.inputs {
        (world.first_feed, world.feed_every, world.budget) = (Some(first), every, (budget, 1));
    }
    world.run(story.faults, story.faults_end, story.faults_end + 3_500_000);
    for line in world.trace.iter().flatten() {
        println!("{line}");
    }
    world.summary
}

fn weather(random: &mut Random) -> Weather {
    let mut some = |most: u64| if random.below(2) == 0 { 0 } else { random.below(most) };
    Weather { lost: some(150_000), twice: some(100_000), flipped: some(10_000), cut_short: some(20_000) }
}

/// Up to eight faults of every kind.
fn faults(cluster: &Cluster, end: u64, random: &mut Random) -> Vec<(u64, Fault, u64)> {
    let mut faults = Vec::new();
    for _ in 0..random.below(9) {
        let device = random.below(cluster.devices as u64) as usize;
        let wire = random.below(cluster.wires.len() as u64) as usize;
        let ends = cluster.wires[wire].ends;
        let fault = match random.below(13) {
            0 => Fault::Kill { device, power: false },
            1 => Fault::Kill { device, power: true },
            2 | 3 => Fault::Pause(device),
            4 => Fault::Cut { wire, from: None },
            5 => Fault::Cut { wire, from: Some(if random.below(2) == 0 { ends.0 } else { ends.1 }) },
            6 if cluster.wires[wire].medium == Medium::Connection => Fault::Reset(wire),
            6 | 7 => Fault::Storm(wire),
            8 if random.below(2) == 0 => Fault::Slow(wire, 0.02 + random.below(50) as f64 / 100.0),
            8 => Fault::SlowReader(device),
            9 => Fault::Hang(device),
            10 => Fault::Replay(wire),
            11 => Fault::Noise(wire, 1 + random.below(40)),
            _ => Fault::Jump(device, random.below(1_000_000) * (1 + random.below(1_000))),
        };
        let time = random.below(end);
        let lasts = match random.below(3) {
            0 => random.below(20_000),
            1 => random.below(400_000),
            _ => random.below(2_000_000),
        };
        faults.push((time, fault, lasts.min(end - time)));
    }
    faults
}
