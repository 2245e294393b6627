//! One fault, done to a running cluster: what is noticed, when answers come again, and what became of every input.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use partita_rt::frame::Kind;
use partita_rt::node::random::Random;
use partita_rt::{FramedStream, Identity, StdStream};
use rustix::process::Signal;

use super::cluster::{Carrier, Cluster, NAMES};
use super::stream::{Account, Stream};

/// How long a cluster may take until all is well again.
pub const WELL_WITHIN: Duration = Duration::from_secs(20);

/// Answers in a row, by everybody, with which all is well.
const WELL: usize = 8;

/// How often devices are asked whom they see.
const ASKED_EVERY: Duration = Duration::from_millis(1);

/// A supervisor starts a device again after this time (`RestartSec=200ms` of the emitted units).
const RESTART: Duration = Duration::from_millis(200);

/// What is done to a device or a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`; the supervisor starts it again.
    Kill,
    /// SIGSTOP, and SIGCONT after this time.
    Stop(Duration),
    /// Power goes and comes back after this time: its peers hear nothing of it.
    Power(Duration),
    /// A cable is pulled for this time.
    Cable(Duration),
    /// For this time a bit is turned in so many of a million bytes.
    Damage(Duration, u32),
}

impl Fault {
    /// For readers.
    pub fn words(self) -> String {
        let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
        match self {
            Fault::Kill => "kill -9, started again after 0.2 s".to_string(),
            Fault::Stop(time) => format!("SIGSTOP for {}", seconds(time)),
            Fault::Power(time) => format!("power off for {}", seconds(time)),
            Fault::Cable(time) => format!("cable pulled for {}", seconds(time)),
            Fault::Damage(time, parts) => {
                format!("1 of {} bytes damaged for {}", 1_000_000 / parts.max(1), seconds(time))
            }
        }
    }

    /// Whether it is done to a cable, not to a device.
    pub fn is_of_cable(self) -> bool {
        matches!(self, Fault::Cable(_) | Fault::Damage(..))
    }

    /// Whether somebody has to notice that a peer or a cable is gone: a connection that closes is noticed at once, silence
    /// after 300 ms.
    pub fn is_noticed(self, carrier: Carrier) -> bool {
        match self {
            Fault::Kill => carrier == Carrier::Tcp,
            Fault::Cable(_) => true,
            Fault::Stop(time) | Fault::Power(time) => time >= Duration::from_secs(1),
            Fault::Damage(..) => false,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// From its beginning until the last of those who lost a peer knew it; none if one of them never did.
    pub noticed: Option<Duration>,
    /// From its beginning until the first right answer to an input that was handed in after that.
    pub answered: Option<Duration>,
    /// From its end until the first right answer to an input that was handed in after the beginning; zero if that came before
    /// the end.
    pub recovered: Option<Duration>,
    /// Whether everybody took part again in the end.
    pub is_well: bool,
    /// What became of the inputs.
    pub account: Account,
}

/// Does a fault to device or cable `at` of a running cluster, and waits until all is well again.
pub fn trial(cluster: &mut Cluster, stream: &Stream, fault: Fault, at: usize, random: &mut Random) -> Found {
    if !stream.is_well(Instant::now(), WELL, WELL_WITHIN) {
        return Found { account: stream.settle(), ..Found::default() };
    }
    std::thread::sleep(Duration::from_micros(random.below(40_000)));
    let watches = if fault.is_noticed(cluster.bundle.carrier) { watches(cluster, fault, at) } else { Vec::new() };
    let begun = Instant::now();
    match fault {
        Fault::Kill => {
            cluster.kill(at);
            std::thread::sleep(RESTART);
            cluster.revive(at);
        }
        Fault::Stop(time) => {
            cluster.signal(at, Signal::STOP);
            std::thread::sleep(time);
            cluster.signal(at, Signal::CONT);
        }
        Fault::Power(time) => {
            cluster.cables_of(at).for_each(|cable| cable.faults.cut.store(true, Ordering::SeqCst));
            cluster.kill(at);
            std::thread::sleep(time);
            cluster.revive(at);
            // The system that has come up knows nothing of its peers' connections, and says so when they send.
            cluster.cables_of(at).for_each(|cable| {
                cable.reset();
                cable.faults.cut.store(false, Ordering::SeqCst);
            });
        }
        Fault::Cable(time) => {
            let faults = cluster.cables[at].faults.clone();
            faults.cut.store(true, Ordering::SeqCst);
            std::thread::sleep(time);
            faults.cut.store(false, Ordering::SeqCst);
        }
        Fault::Damage(time, parts) => {
            let faults = cluster.cables[at].faults.clone();
            faults.damaged.store(parts, Ordering::SeqCst);
            std::thread::sleep(time);
            faults.damaged.store(0, Ordering::SeqCst);
        }
    }
    let ended = Instant::now();
    let first = stream.first_after(begun, WELL_WITHIN);
    let is_well = stream.is_well(ended, WELL, WELL_WITHIN);
    let noticed: Vec<Option<Instant>> = watches.into_iter().map(Watch::end).collect();
    let noticed = noticed.into_iter().collect::<Option<Vec<_>>>().and_then(|times| times.into_iter().max());
    Found {
        noticed: noticed.map(|time| time.saturating_duration_since(begun)),
        answered: first.map(|time| time - begun),
        recovered: first.map(|time| time.saturating_duration_since(ended)),
        is_well,
        account: stream.settle(),
    }
}

/// One who asks a device again and again whether it sees a peer, until it does not.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Option<Instant>>,
}

impl Watch {
    fn start(cluster: &Cluster, device: usize, peer: usize) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (stops, plan_hash) = (stop.clone(), cluster.bundle.plan_hash);
        let stream = UnixStream::connect(cluster.socket(device)).expect("it serves programs");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket has this option");
        let down = format!("peer=\"{}\"}} 0", NAMES[peer]);
        let thread = std::thread::spawn(move || {
            let mut line = FramedStream::new(StdStream(stream), Identity { plan_hash, device: u8::MAX });
            line.shake_hands_with_any().ok()?;
            while !stops.load(Ordering::SeqCst) {
                line.send(Kind::Status, 0, 0, &[]).ok()?;
                let header = line.receive_header().ok()?;
                let mut payload = vec![0; header.length as usize];
                line.receive_payload(&header, &mut payload).ok()?;
                if String::from_utf8_lossy(&payload).contains(&down) {
                    return Some(Instant::now());
                }
                std::thread::sleep(ASKED_EVERY);
            }
            None
        });
        Watch { stop, thread }
    }

    fn end(self) -> Option<Instant> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it does not fail")
    }
}

/// Those who lose a peer: everybody with a cable to the device, or one end of the cable. They have asked once when this
/// returns.
fn watches(cluster: &Cluster, fault: Fault, at: usize) -> Vec<Watch> {
    let cables = cluster.bundle.shape.cables();
    let pairs: Vec<(usize, usize)> = if fault.is_of_cable() {
        vec![cables[at], (cables[at].1, cables[at].0)]
    } else {
        let of = |(a, b): &(usize, usize)| match at {
            _ if at == *a => Some((*b, *a)),
            _ if at == *b => Some((*a, *b)),
            _ => None,
        };
        cables.iter().filter_map(of).collect()
    };
    let watches = pairs.into_iter().map(|(device, peer)| Watch::start(cluster, device, peer)).collect();
    std::thread::sleep(5 * ASKED_EVERY);
    watches
}

/// These parts of all times, in milliseconds; how many there are, if some are missing.
pub fn quantiles(times: Vec<Option<Duration>>, parts: &[f64]) -> String {
    let all = times.len();
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else { return "never".to_string() };
    let at = |part: &f64| format!("{:.1}", times[(last as f64 * part).round() as usize].as_secs_f64() * 1e3);
    let missing = if times.len() < all { format!(" ({} of {all})", times.len()) } else { String::new() };
    parts.iter().map(at).collect::<Vec<_>>().join(" / ") + &missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_is_there() {
        let times = (1..=100).map(|ms| Some(Duration::from_millis(ms))).collect();
        assert_eq!(quantiles(times, &[0.0, 0.5, 1.0]), "1.0 / 51.0 / 100.0");
        assert_eq!(quantiles(vec![None, Some(Duration::from_micros(250))], &[1.0]), "0.2 (1 of 2)");
        assert_eq!(quantiles(vec![None], &[0.5]), "never");
    }
}
