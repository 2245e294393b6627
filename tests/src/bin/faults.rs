//! The fault table: `tests/results/faults` says how it is run.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Arg, Command, value_parser};
use partita_rt::hosted::client::Client;
use partita_rt::node::Outcome;
use partita_rt::node::random::Random;
use partita_tests::arrays::relative_difference;
use partita_tests::bundle::TOLERANCE;
use partita_tests::faults::cluster::{Bundle, Carrier, Cluster, NAMES, Shape};
use partita_tests::faults::stream::{Account, Stream};
use partita_tests::faults::trial::{Fault, Found, quantiles, trial};

const SECOND: Duration = Duration::from_secs(1);

/// Inputs under way over lossy links.
const UNDER_WAY: usize = 8;

/// What is done; the longest last.
const FAULTS: [Fault; 9] = [
    Fault::Kill,
    Fault::Power(Duration::from_millis(50)),
    Fault::Power(SECOND),
    Fault::Cable(SECOND),
    Fault::Damage(SECOND, 100),
    Fault::Damage(SECOND, 1_000),
    Fault::Stop(Duration::from_millis(100)),
    Fault::Stop(SECOND),
    Fault::Stop(Duration::from_secs(10)),
];

/// A row of the table.
struct Row {
    shape: Shape,
    carrier: Carrier,
    fault: Fault,
    at: usize,
}

impl Row {
    fn whom(&self) -> String {
        let role = |device: usize| match (self.shape, device) {
            (Shape::Pipeline, 0) => "input",
            (Shape::Pipeline, 1) => "middle",
            (Shape::Pipeline, _) => "output",
            (Shape::Survives, 0) => "input and output",
            (Shape::Survives, _) => "worker",
        };
        if self.fault.is_of_cable() {
            let (a, b) = self.shape.cables()[self.at];
            return format!("cable {}-{}", NAMES[a], NAMES[b]);
        }
        format!("{} ({})", NAMES[self.at], role(self.at))
    }
}

fn main() -> ExitCode {
    let list = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_delimiter(',').num_args(1..).help(help)
    };
    let number = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(value).value_parser(value_parser!(u64)).help(help)
    };
    let arguments = Command::new("faults")
        .about(
            "Does every fault to every device and cable of small clusters, again and again, and prints what came of it",
        )
        .arg(number("trials", "100", "How often each fault is done"))
        .arg(number("beside", "3", "Clusters at a time"))
        .arg(number("seed", "1", "Where chance begins"))
        .arg(number("inferences", "3000", "How many inputs are answered over each lossy link"))
        .arg(list("carriers", "Of tcp, udp, uart; all by default"))
        .arg(list("shapes", "Of pipeline, survive; both by default"))
        .arg(list("faults", "Words of a fault's name, such as kill or cable, or loss; all by default"))
        .get_matches();
    let words = |name: &str| -> Vec<String> {
        arguments.get_many::<String>(name).map(|words| words.cloned().collect()).unwrap_or_default()
    };
    let of = |name: &str| *arguments.get_one::<u64>(name).expect("it has a default");
    let wanted = |given: &[String], name: &str| given.is_empty() || given.iter().any(|word| name.contains(word));
    let (carriers, shapes, faults) = (words("carriers"), words("shapes"), words("faults"));
    println!(
        "| cluster | link | fault | of | trials | noticed, ms | right answer after, ms | after its end, ms | inputs | full | \
         exit | variant | late | failed | cut off | untold | lost | twice | wrong |\n|---|---|---|---|{}",
        "---:|".repeat(15)
    );
    let mut broken = 0;
    for shape in [Shape::Pipeline, Shape::Survives] {
        for carrier in [Carrier::Tcp, Carrier::Udp, Carrier::Uart] {
            if !wanted(&carriers, carrier.word()) || !wanted(&shapes, shape.word()) {
                continue;
            }
            let bundle = Arc::new(Bundle::build(shape, carrier));
            let faults = FAULTS.into_iter().filter(|fault| wanted(&faults, &fault.words()));
            let rows: Vec<Row> = faults
                .flat_map(|fault| {
                    let count = if fault.is_of_cable() { shape.cables().len() } else { NAMES.len() };
                    (0..count).map(move |at| Row { shape, carrier, fault, at })
                })
                .collect();
            broken += run(&bundle, rows, (of("trials") as usize, of("beside") as usize, of("seed")));
        }
    }
    if wanted(&carriers, "udp") && wanted(&faults, "loss") {
        broken += losses(of("inferences") as usize, of("seed"));
    }
    if broken > 0 {
        eprintln!(
            "{broken} rows with an input that was lost, answered twice or wrongly, or a cluster that did not recover"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Runs rows, several at a time, and prints each as it is done, in order; how many show a broken promise.
fn run(bundle: &Arc<Bundle>, rows: Vec<Row>, (trials, beside, seed): (usize, usize, u64)) -> usize {
    let rows: Vec<Arc<Row>> = rows.into_iter().map(Arc::new).collect();
    let next = Mutex::new(0..rows.len());
    let done: Mutex<Vec<(usize, String, bool)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..beside {
            scope.spawn(|| {
                loop {
                    let Some(at) = next.lock().expect("nobody fails").next() else { return };
                    let (line, is_broken) = row(bundle, &rows[at], trials, seed + at as u64);
                    let mut done = done.lock().expect("nobody fails");
                    eprintln!("{line}");
                    done.push((at, line, is_broken));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody fails");
    done.sort();
    done.iter().for_each(|(_, line, _)| println!("{line}"));
    done.iter().filter(|(_, _, is_broken)| *is_broken).count()
}

/// A row's text, and whether it shows a broken promise.
fn row(bundle: &Arc<Bundle>, row: &Row, trials: usize, seed: u64) -> (String, bool) {
    let mut random = Random::new(seed);
    let mut cluster = Cluster::start(bundle, seed);
    let stream = Stream::start(&cluster, Duration::from_millis(10), SECOND);
    stream.is_well(Instant::now(), 8, Duration::from_secs(20));
    stream.settle();
    let found: Vec<Found> = (0..trials).map(|_| trial(&mut cluster, &stream, row.fault, row.at, &mut random)).collect();
    stream.stop();
    let mut sum = Account::default();
    found.iter().for_each(|found| sum.add(&found.account));
    let ill = found.iter().filter(|found| !found.is_well).count();
    let times = |time: fn(&Found) -> Option<Duration>| quantiles(found.iter().map(time).collect(), &[0.5, 0.95, 1.0]);
    let noticed = if row.fault.is_noticed(row.carrier) { times(|found| found.noticed) } else { "-".to_string() };
    let Account { offered, full, exit, variant, late, failed, cut_off, untold, lost, twice, wrong, .. } = sum;
    let ill_words = if ill > 0 { format!(", {ill} not well again") } else { String::new() };
    let text = format!(
        "| {} | {} | {} | {} | {trials}{ill_words} | {noticed} | {} | {} | {offered} | {full} | {exit} | {variant} | {late} | \
         {failed} | {cut_off} | {untold} | {lost} | {twice} | {wrong} |",
        row.shape.word(),
        row.carrier.word(),
        row.fault.words(),
        row.whom(),
        times(|found| found.answered),
        times(|found| found.recovered),
    );
    (text, lost + twice + wrong + ill as u64 > 0)
}

/// Answers over links that lose datagrams: one input at a time, then several under way; how many rows show a wrong answer, or
/// none.
fn losses(inferences: usize, seed: u64) -> usize {
    println!(
        "\n| datagrams lost | one at a time, ms (p50 / p95 / p99 / worst) | answers per second, 8 under way | full | variant | late | \
         failed | wrong |\n|---:|---|---:|---:|---:|---:|---:|---:|"
    );
    let bundle = Arc::new(Bundle::build(Shape::Pipeline, Carrier::Udp));
    let mut broken = 0;
    for (percent, burst) in [(0, 0), (1, 0), (2, 0), (5, 0), (10, 0), (20, 0), (5, 4)] {
        let cluster = Cluster::start(&bundle, seed);
        let stream = Stream::start(&cluster, Duration::from_millis(10), SECOND);
        stream.is_well(Instant::now(), 8, Duration::from_secs(20));
        stream.stop();
        for cable in &cluster.cables {
            cable.faults.burst.store(burst, Ordering::SeqCst);
            cable.faults.lost.store(percent * 10_000 / (burst + 1), Ordering::SeqCst);
        }
        let output = cluster.socket(bundle.shape.output());
        let mut client = Client::connect(bundle.plan_hash, &cluster.socket(0), Some(&output)).expect("it listens");
        client.set_budget(10 * SECOND).expect("it hears");
        let mut outcomes = [0usize; 4];
        let mut wrong = 0;
        let mut next = |client: &mut Client, sample: usize| {
            let mut answer = vec![0; 4 * bundle.answers[sample].len()];
            match client.next(&mut answer).expect("it answers").outcome {
                Outcome::Full | Outcome::Exit(..) => outcomes[0] += 1,
                Outcome::Variant(..) => outcomes[1] += 1,
                Outcome::Late => outcomes[2] += 1,
                Outcome::Failed(_) => outcomes[3] += 1,
            }
            let answer: Vec<f32> = answer.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            wrong += usize::from(relative_difference(&answer, &bundle.answers[sample]) > TOLERANCE);
        };
        let mut times = Vec::with_capacity(inferences);
        for at in 0..inferences {
            let sample = at % bundle.inputs.len();
            let begun = Instant::now();
            client.submit(&bundle.inputs[sample]).expect("it is taken");
            next(&mut client, sample);
            times.push(Some(begun.elapsed()));
        }
        let begun = Instant::now();
        for at in 0..inferences + UNDER_WAY {
            if at < inferences {
                client.submit(&bundle.inputs[at % bundle.inputs.len()]).expect("it is taken");
            }
            if let Some(at) = at.checked_sub(UNDER_WAY) {
                next(&mut client, at % bundle.inputs.len());
            }
        }
        let rate = inferences as f64 / begun.elapsed().as_secs_f64();
        let what = if burst > 0 { format!("{percent} %, {} in a row", burst + 1) } else { format!("{percent} %") };
        let [full, variant, late, failed] = outcomes;
        let times = quantiles(times, &[0.5, 0.95, 0.99, 1.0]);
        println!("| {what} | {times} | {rate:.0} | {full} | {variant} | {late} | {failed} | {wrong} |");
        broken += usize::from(wrong + late + failed > 0);
    }
    broken
}
