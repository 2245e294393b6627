//! How fast a program is on its own: inferences one after the other, timed by the wall and by the processor.

use std::format;
use std::string::String;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::process::getppid;
use rustix::time::ClockId;

use super::driver::Steps;
use super::process::{alone, timed};
use super::steps::{StepTimes, time_of};
use crate::node::Plan;

/// Least inferences, however long they take.
const LEAST_RUNS: usize = 5;

/// Infers for some time, after a `first` answer that came so long after the program's start, and says in one line of JSON what it took: times in nanoseconds, median and least, and per step the
/// median of a second series, since looking at each step takes time too. Whole numbers, since printing others would make
/// every program larger.
///
/// Every inference begins with the same input, since the memory of an input is used for other tensors behind its last reader.
/// It stands between two calls of `getppid`, which emulators and tracers can count instructions between.
pub(super) fn bench(program: &mut dyn Steps, plan: &Plan<'_>, input: &[u8], time: Duration, first: Duration) -> String {
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while wall.len() < LEAST_RUNS || begin.elapsed() < time {
        program.load(0, input);
        mark();
        let (cpu_before, before) = (cpu_time(), Instant::now());
        alone(program, plan, None, &mut ());
        wall.push(nanoseconds(before.elapsed()));
        cpu.push(nanoseconds(cpu_time().saturating_sub(cpu_before)));
        mark();
    }
    let mut steps: Vec<Vec<u64>> = Vec::new();
    let begin = Instant::now();
    let mut observer = StepTimes::new(true, 1.0);
    for run in 0.. {
        if run >= LEAST_RUNS && begin.elapsed() > time / 4 {
            break;
        }
        program.load(0, input);
        timed(program, plan, &mut observer);
        let times = observer.payload().chunks_exact(8).filter_map(|time| time.try_into().ok()).map(u64::from_le_bytes);
        for (step, time) in times.enumerate() {
            if steps.len() <= step {
                steps.push(Vec::new());
            }
            steps[step].push(time);
        }
    }
    let steps: Vec<String> = steps.iter_mut().map(|times| format!("{}", median(times))).collect();
    let runs = wall.len();
    let least = |times: &[u64]| times.iter().copied().min().unwrap_or(0);
    format!(
        "{{\"runs\":{runs},\"first_ns\":{},\"min_ns\":{},\"median_ns\":{},\"cpu_min_ns\":{},\"cpu_median_ns\":{},\
         \"peak_rss_bytes\":{},\"steps_ns\":[{}]}}",
        nanoseconds(first),
        least(&wall),
        median(&mut wall),
        least(&cpu),
        median(&mut cpu),
        peak_rss_bytes(),
        steps.join(",")
    )
}

fn mark() {
    let _ = getppid();
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn median(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(0)
}

/// Processor time of all threads.
fn cpu_time() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

/// Most memory that the process has held; 0 where the kernel does not say.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
