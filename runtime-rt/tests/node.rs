//! The node's promises, under faults: `PARTITA_SEEDS` says how many seeds, from `PARTITA_FIRST_SEED` on; `PARTITA_SEED`
//! replays one and tells what happened.

mod simulator;

use std::sync::atomic::{AtomicU64, Ordering};

use partita_rt::node::random::Random;
use partita_rt::node::{Link, Medium, Node, Peer, Plan, Route, Step};
use simulator::faults::Fault;
use simulator::model::{Cluster, peers};
use simulator::network::Weather;
use simulator::simulate;
use simulator::summary::Summary;
use simulator::{Story, simulate_with};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn every_promise_holds_under_faults() {
    if let Some(seed) = number("PARTITA_SEED") {
        println!("{:?}", simulate(seed, true));
        return;
    }
    let seeds =
        number("PARTITA_SEEDS").unwrap_or(if std::env::var_os("PARTITA_LONG").is_some() { 20_000 } else { 2_000 });
    let first = number("PARTITA_FIRST_SEED").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    // One after the other, whoever is free: those with keys take five times as long.
    let next = AtomicU64::new(first);
    let some = || {
        let mut sum = Summary::default();
        let all = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        all.take_while(|seed| *seed < first + seeds).for_each(|seed| sum.add(&simulate(seed, false)));
        sum
    };
    let mut all = Summary::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        parts.into_iter().for_each(|part| all.add(&part.join().expect("every promise held")));
    });
    println!("{all:?}");
}

/// Runs clusters of some seeds through the same story; what it is of each.
fn stories(seeds: std::ops::Range<u64>, story: impl Fn(&Cluster, &mut Random) -> Story) -> Vec<Summary> {
    let run = |seed: u64| {
        let mut random = Random::new(seed);
        let cluster = Cluster::new(&mut random);
        let story = story(&cluster, &mut random);
        simulate_with(seed, &cluster, story, random)
    };
    seeds.map(run).collect()
}

fn calm(faults: Vec<(u64, Fault, u64)>, faults_end: u64, inputs: (u64, u64, u64)) -> Story {
    Story { weather: Weather::default(), faults, faults_end, inputs: Some(inputs), steady_us: None, trace: false }
}

#[test]
fn idle_is_not_failure() {
    // Half an hour in which nobody asks anything.
    let all = stories(0..3, |_, _| calm(vec![], 1_800_000_000, (1_800_000_000, 100_000, 1_000_000)));
    for summary in &all {
        assert_eq!((summary.counters.silent, summary.counters.closed), (0, 0));
        assert_eq!((summary.late, summary.failed), (0, 0));
        assert!(summary.delivered > 5, "{summary:?}");
    }
    // The second has keys, which are changed every two minutes; the others' sessions are those that they began with.
    let begun: Vec<u64> = all.iter().map(|summary| summary.counters.begun).collect();
    if cfg!(feature = "noise") {
        let both_ends = 2 * (1800 / 120 - 1);
        assert!(begun[1] >= both_ends && begun[0].max(begun[2]) < both_ends, "{begun:?}");
    }
}

/// With `PARTITA_LONG=1`: a day, in which one datagram of a hundred is lost and an input comes every ten seconds.
#[test]
fn a_day_loses_nobody() {
    if std::env::var_os("PARTITA_LONG").is_none() {
        println!("skipped: it takes minutes (PARTITA_LONG=1)");
        return;
    }
    let day = 86_400_000_000;
    let weather = Weather { lost: 10_000, ..Weather::default() };
    let story = |_: &Cluster, _: &mut Random| Story { weather, ..calm(vec![], day, (0, 10_000_000, 8_000_000)) };
    for summary in stories(0..2, story) {
        println!("{summary:?}");
        assert_eq!((summary.late, summary.failed), (0, 0));
        assert_eq!((summary.counters.silent, summary.counters.closed), (0, 0), "nobody is taken for lost");
        assert!(summary.delivered > 8_000, "an answer every ten seconds");
    }
}

#[test]
fn losses_and_damage_are_repaired_inside_the_deadline() {
    let weather = Weather { lost: 200_000, twice: 50_000, flipped: 10_000, cut_short: 10_000 };
    let story = |_: &Cluster, _: &mut Random| Story { weather, ..calm(vec![], 2_000_000, (0, 100_000, 8_000_000)) };
    for summary in stories(0..60, story) {
        // A chooser may find that a smaller network is quicker.
        assert_eq!((summary.late, summary.failed), (0, 0), "{summary:?}");
        assert_eq!((summary.counters.tried_again, summary.counters.silent), (0, 0), "nobody is taken for lost");
    }
}

#[test]
fn a_device_that_returns_before_it_is_missed_costs_no_answer() {
    let story = |cluster: &Cluster, random: &mut Random| {
        let device = (cluster.input + 1 + random.below(cluster.devices as u64 - 1) as usize) % cluster.devices;
        let kill = |at: u64, power: bool| (at, Fault::Kill { device, power }, 20_000 + at % 30_000);
        calm(vec![kill(400_000, false), kill(900_000 + random.below(50_000), true)], 1_500_000, (0, 30_000, 8_000_000))
    };
    let mut again = 0;
    for summary in stories(0..100, story) {
        assert_eq!((summary.late, summary.failed), (0, 0), "{summary:?}");
        again += summary.counters.tried_again;
    }
    assert!(again > 10, "inputs were under way when a device was restarted: {again}");
}

#[test]
fn sessions_over_slow_links_do_not_replace_each_other_for_ever() {
    // What its peers say in the sessions of its earlier life is on its way for longer than calls are apart.
    let run = |seed: u64| {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(&mut random);
        for wire in &mut cluster.wires {
            (wire.medium, wire.latency_us, wire.jitter_us) = (Medium::Datagrams, 8_000, 0);
        }
        let device = (cluster.input + 1) % cluster.devices;
        let links = cluster.wires.iter().filter(|wire| [wire.ends.0, wire.ends.1].contains(&device)).count();
        let kill = (400_000, Fault::Kill { device, power: true }, 30_000);
        let summary = simulate_with(seed, &cluster, calm(vec![kill], 500_000, (0, 30_000, 8_000_000)), random);
        assert_eq!((summary.late, summary.failed), (0, 0), "{summary:?}");
        // One at both ends of every wire; with the device's next life one more, and another beside it at the most.
        let most = 2 * (cluster.wires.len() + 2 * links) as u64;
        assert!(summary.counters.begun <= most, "seed {seed}: {most} would do, {summary:?}");
    };
    (0..40).for_each(run);
}

#[test]
fn lives_of_the_device_with_the_input_do_not_mix() {
    // Each begins to count inferences anew, so numbers of one life are those of the last.
    let story = |cluster: &Cluster, random: &mut Random| {
        let kill = |at: u64, power: bool| (at, Fault::Kill { device: cluster.input, power }, 1_000 + at % 9_000);
        let times = (1..12).map(|at| at * 100_000 + random.below(40_000)).collect::<Vec<u64>>();
        let faults = times.into_iter().map(|at| kill(at, at % 2 == 0)).collect();
        Story {
            weather: Weather { twice: 100_000, ..Weather::default() },
            ..calm(faults, 1_300_000, (0, 4_000, 8_000_000))
        }
    };
    let all = stories(0..40, story);
    assert!(all.iter().map(|summary| summary.disconnected).sum::<u64>() > 30);
}

#[test]
fn a_clock_that_jumps_loses_nobody() {
    let story = |cluster: &Cluster, random: &mut Random| {
        let jump = |at: u64| {
            let device = random.below(cluster.devices as u64) as usize;
            (at * 100_000, Fault::Jump(device, 1 << random.below(50)), 0)
        };
        calm((1..10).map(jump).collect(), 1_000_000, (1_500_000, 50_000, 8_000_000))
    };
    for summary in stories(0..30, story) {
        assert_eq!((summary.counters.silent, summary.counters.closed), (0, 0), "{summary:?}");
        assert_eq!((summary.late, summary.failed), (0, 0), "{summary:?}");
    }
}

#[test]
fn a_pipeline_works_on_several_inputs_at_once() {
    let run = |every_us: u64| {
        let mut random = Random::new(1);
        let cluster = Cluster::pipeline(&mut random);
        let story = Story { steady_us: Some(5_000), ..calm(vec![], 2_000_000, (100_000, every_us, 60_000_000)) };
        let summary = simulate_with(1, &cluster, story, random);
        assert_eq!((summary.late, summary.failed), (0, 0));
        summary
    };
    let alone = run(200_000);
    let latency_us = alone.took_us as f64 / alone.answers.len() as f64;
    let many = run(1_000);
    let (first, last) = (many.answers[0], many.answers[many.answers.len() - 1]);
    let between_us = (last - first) as f64 / (many.answers.len() - 1) as f64;
    println!("{latency_us:.0} us alone, one every {between_us:.0} us");
    assert!(latency_us < 16_500.0, "three steps of 5 ms, and {latency_us} us");
    assert!(latency_us > 2.1 * between_us, "{latency_us} us alone, one every {between_us} us");
}

#[test]
fn devices_of_another_plan_do_not_talk() {
    let cluster = Cluster::new(&mut Random::new(1));
    let wire = cluster.wires[0].clone();
    let ends = [wire.ends.0, wire.ends.1];
    let all: Vec<Vec<Peer>> = ends.iter().map(|end| peers(&cluster, *end)).collect();
    let line = |peer: &Peer| Peer { medium: Medium::Line, ..*peer };
    let peers: Vec<[Peer; 1]> = [(0, ends[1]), (1, ends[0])]
        .map(|(at, other)| {
            all[at].iter().find(|peer| usize::from(peer.device) == other).map(line).expect("a wire's end")
        })
        .map(|peer| [peer])
        .into();
    let routes = [Route { steps: &[Step::Compute], devices: 1, links: &[] }];
    for (hashes, talk) in [([1, 1], true), ([1, 2], false)] {
        let plan = |at: usize| Plan {
            hash: hashes[at],
            device: ends[at] as u8,
            input: ends[0] as u8,
            output: ends[0] as u8,
            peers: &peers[at],
            routes: &routes,
            family: None,
            detect_us: 300_000,
            hung_us: 0,
        };
        let mut nodes = [Node::<[Link; 1]>::new(plan(0), 5), Node::<[Link; 1]>::new(plan(1), 6)];
        for now_us in (0..1_000_000).step_by(1000) {
            for at in 0..2 {
                nodes[at].on_tick(now_us);
                while let Some(pieces) = nodes[at].poll_send(0, &(), &mut []) {
                    let mut bytes = pieces.concat();
                    nodes[at].on_sent(0, bytes.len());
                    nodes[1 - at].on_bytes(0, &mut bytes, &mut ());
                }
            }
        }
        assert_eq!([nodes[0].is_talking(0), nodes[1].is_talking(0)], [talk, talk]);
        assert_eq!(nodes[0].counters().other_plans + nodes[1].counters().other_plans > 0, !talk);
    }
}

#[test]
fn a_node_fits_on_small_devices() {
    let bytes = std::mem::size_of::<Node<'_, [Link; 1]>>();
    // Keys are 0.7 KiB, and parsing and sending under them 0.9 KiB, with vectors of the host.
    let keys = if cfg!(feature = "noise") { 2048 } else { 0 };
    assert!(bytes < 9 * 1024 + keys, "{bytes} bytes with one peer");
    let more = std::mem::size_of::<Node<'_, [Link; 2]>>() - bytes;
    assert!(more < 4 * 1024 + keys, "{more} bytes for each further peer");
}
