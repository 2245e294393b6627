//! The node's promises, under faults: `PARTITA_SEEDS` says how many seeds, `PARTITA_SEED` replays one and tells what happened.

mod simulator;

use simulator::simulate;
use simulator::world::Summary;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn every_promise_holds_under_faults() {
    if let Some(seed) = number("PARTITA_SEED") {
        println!("{:?}", simulate(seed, true));
        return;
    }
    let seeds = number("PARTITA_SEEDS").unwrap_or(2_000);
    let first = number("PARTITA_FIRST_SEED").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get()) as u64;
    let some = |part: u64| {
        let mut sum = Summary::default();
        (first..first + seeds).filter(|seed| seed % threads == part).for_each(|seed| sum.add(&simulate(seed, false)));
        sum
    };
    let mut all = Summary::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|part| scope.spawn(move || some(part))).collect();
        parts.into_iter().for_each(|part| all.add(&part.join().expect("every promise held")));
    });
    println!("{all:?}");
}
