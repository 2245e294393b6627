//! The fault table: `tests/results/faults` says how it is run.

use std::io::Write;
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Arg, Command, value_parser};
use partita_rt::node::random::Random;
use partita_tests::faults::cluster::{Bundle, Carrier, Cluster, NAMES, Shape};
use partita_tests::faults::steady::{Asker, Outcomes, UNDER_WAY, taken};
use partita_tests::faults::stream::{Account, Stream};
use partita_tests::faults::trial::{Fault, Found, quantiles, trial};

const SECOND: Duration = Duration::from_secs(1);

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

/// What the columns are.
const LEGEND: &str = "\
Three processes that read digits, with a cable (`tests/src/relay.rs`) between each two: a pipeline (input on a, output on c), and \
one with `survive = 1` (input and output on a). A client hands an input in every 10 ms, up to four under way, each with a second \
of time, and connects again when its device comes back. Every fault is done so often, to the same running cluster; before the \
next, everybody takes part again. Times are median / 95 % / worst.

- noticed: from the fault until the last peer, or end of the cable, says so (a connection that closes is noticed at once, silence \
after 300 ms; what is shorter is not to be noticed).
- right answer after: from the fault's beginning, and from its end, until the first right answer to an input that was handed in \
after the beginning.
- full, exit, variant, late, failed: records, of which every input has one. cut off: under way on the input's device when that \
died, and the client's connection with it. untold: answered, and the output's device died, or was back before its client was, so \
that nobody heard it.
- lost: inputs without any of these. twice: with two records. wrong: with an answer that is not the reference kernels'.
";

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
        .arg(number("soak", "200000", "How many inputs one cluster answers while its memory is watched"))
        .arg(list("carriers", "Of tcp, udp, uart; all by default"))
        .arg(list("shapes", "Of pipeline, survive; both by default"))
        .arg(list("faults", "Words of a fault's name, such as kill or cable, or loss, strangers, soak; all by default"))
        .get_matches();
    let words = |name: &str| -> Vec<String> {
        arguments.get_many::<String>(name).map(|words| words.cloned().collect()).unwrap_or_default()
    };
    println!("{LEGEND}");
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
    if wanted(&carriers, "tcp") && wanted(&faults, "strangers") {
        broken += strangers(of("inferences") as usize, of("seed"));
    }
    if wanted(&carriers, "tcp") && wanted(&faults, "soak") {
        broken += soak(of("soak") as usize, of("seed"));
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

/// Answers over links that lose datagrams: one input at a time, then several under way; how many rows have an input that was
/// not answered rightly.
fn losses(inferences: usize, seed: u64) -> usize {
    println!(
        "\n| datagrams lost | one at a time, ms (p50 / p95 / p99 / worst) | answers per second, {UNDER_WAY} under way | full | \
         variant | late | failed | wrong |\n|---:|---|---:|---:|---:|---:|---:|---:|"
    );
    let bundle = Arc::new(Bundle::build(Shape::Pipeline, Carrier::Udp));
    let mut broken = 0;
    for (percent, burst) in [(0, 0), (1, 0), (2, 0), (5, 0), (10, 0), (20, 0), (5, 4)] {
        let cluster = Cluster::start(&bundle, seed);
        let mut asker = Asker::connect(&cluster);
        for cable in &cluster.cables {
            cable.faults.burst.store(burst, Ordering::SeqCst);
            cable.faults.lost.store(percent * 10_000 / (burst + 1), Ordering::SeqCst);
        }
        let times = quantiles(asker.one_at_a_time(inferences), &[0.5, 0.95, 0.99, 1.0]);
        let rate = asker.several_at_once(inferences);
        let what = if burst > 0 { format!("{percent} %, {} in a row", burst + 1) } else { format!("{percent} %") };
        let Outcomes { full, variant, late, failed, wrong } = asker.outcomes;
        println!("| {what} | {times} | {rate:.0} | {full} | {variant} | {late} | {failed} | {wrong} |");
        broken += usize::from(!asker.outcomes.are_good());
    }
    broken
}

/// Connections of nobody: so many are opened to the device in the middle, and each sends a byte a second.
const STRANGERS: usize = 1000;

/// Answers while strangers hold connections open, and behind that; how many rows have an input that was not answered rightly.
fn strangers(inferences: usize, seed: u64) -> usize {
    println!(
        "\n| connections of strangers | one at a time, ms (p50 / p95 / p99 / worst) | memory of the device, KiB | not answered \
         rightly |\n|---|---|---:|---:|"
    );
    let bundle = Arc::new(Bundle::build(Shape::Pipeline, Carrier::Tcp));
    let cluster = Cluster::start(&bundle, seed);
    let mut asker = Asker::connect(&cluster);
    asker.one_at_a_time(inferences);
    let mut row = |what: String| {
        asker.outcomes = Outcomes::default();
        let times = quantiles(asker.one_at_a_time(inferences), &[0.5, 0.95, 0.99, 1.0]);
        let bad = inferences - asker.outcomes.full - asker.outcomes.variant + asker.outcomes.wrong;
        println!("| {what} | {times} | {} | {bad} |", taken(&cluster)[1].0);
        usize::from(bad > 0)
    };
    let mut broken = row("none".to_string());
    let stop = Arc::new(AtomicBool::new(false));
    let (stops, at) = (stop.clone(), cluster.places[1]);
    // Who is let go comes again at once.
    let drips = std::thread::spawn(move || {
        let mut open: Vec<TcpStream> = Vec::new();
        let mut connected = 0usize;
        while !stops.load(Ordering::SeqCst) {
            open.retain_mut(|stream| stream.write_all(b"P").is_ok());
            while open.len() < STRANGERS && !stops.load(Ordering::SeqCst) {
                let Ok(stream) = TcpStream::connect(at) else { break };
                open.push(stream);
                connected += 1;
                if connected.is_multiple_of(50) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            std::thread::sleep(SECOND);
        }
        connected
    });
    std::thread::sleep(SECOND);
    broken += row(format!("{STRANGERS} at a time, a byte a second from each"));
    stop.store(true, Ordering::SeqCst);
    let connected = drips.join().expect("it does not fail");
    broken += row(format!("none any more, {connected} came"));
    broken
}

/// Many inferences on one cluster: memory and descriptors; then how soon and how often it answers.
fn soak(inferences: usize, seed: u64) -> usize {
    println!(
        "\n| inferences | memory of the devices, KiB | open descriptors | not answered rightly |\n|---:|---|---|---:|"
    );
    let bundle = Arc::new(Bundle::build(Shape::Pipeline, Carrier::Tcp));
    let cluster = Cluster::start(&bundle, seed);
    let mut asker = Asker::connect(&cluster);
    for tenth in 0..=10 {
        if tenth > 0 {
            asker.several_at_once(inferences / 10);
        }
        let done = inferences / 10 * tenth;
        let (memory, open): (Vec<String>, Vec<String>) =
            taken(&cluster).into_iter().map(|(kib, open)| (kib.to_string(), open.to_string())).unzip();
        let bad = done - asker.outcomes.full - asker.outcomes.variant + asker.outcomes.wrong;
        println!("| {done} | {} | {} | {bad} |", memory.join(", "), open.join(", "));
    }
    let alone = asker.one_at_a_time(2000).into_iter().flatten().sum::<Duration>().as_secs_f64() / 2000.0;
    let rate = asker.several_at_once(2000);
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    println!(
        "\nThree processes and the client on {cores} cores: {:.2} ms for one input at a time, {rate:.0} answers per second with \
         {UNDER_WAY} under way.",
        alone * 1e3
    );
    usize::from(!asker.outcomes.are_good())
}
