//! A client that hands inputs to a cluster at a steady pace, and keeps account of what becomes of every one.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use partita_rt::frame::{Kind, WANTS_ANSWERS};
use partita_rt::node::{Outcome, Record};
use partita_rt::{FramedStream, Identity, StdStream};

use super::cluster::{Bundle, Cluster};
use crate::arrays::relative_difference;
use crate::bundle::TOLERANCE;

type Line = FramedStream<StdStream<UnixStream>>;

/// Most inputs under way.
const UNDER_WAY: usize = 4;

/// A record that has not come so long after its time was up does not come: processes that are starved are late, not silent.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What became of the inputs that a cluster took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Inputs that were handed in.
    pub offered: u64,
    /// By the whole network on the plan's first route.
    pub full: u64,
    /// At an exit.
    pub exit: u64,
    /// On another route.
    pub variant: u64,
    /// Their time was up.
    pub late: u64,
    /// Nothing could take them.
    pub failed: u64,
    /// The device with the input has ended, and the client's connection with it: it knows that it hears nothing more of them.
    pub cut_off: u64,
    /// Answered, but the device with the output has ended before it told this client.
    pub untold: u64,
    /// Without any of these.
    pub lost: u64,
    /// With two records.
    pub twice: u64,
    /// Whose answer was told again, the same.
    pub again: u64,
    /// With a wrong answer.
    pub wrong: u64,
}

impl Account {
    /// Adds another's.
    pub fn add(&mut self, other: &Account) {
        let Account { offered, full, exit, variant, late, failed, cut_off, untold, lost, twice, again, wrong } = other;
        self.offered += offered;
        self.full += full;
        self.exit += exit;
        self.variant += variant;
        self.late += late;
        self.failed += failed;
        self.cut_off += cut_off;
        self.untold += untold;
        self.lost += lost;
        self.twice += twice;
        self.again += again;
        self.wrong += wrong;
    }
}

/// An answered input.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// When it was handed in.
    pub given: Instant,
    /// When both its record and its answer had come.
    pub answered: Instant,
    /// Whether the whole network answered on the plan's first route.
    pub is_full: bool,
}

/// An input under way.
struct Waiting {
    sample: usize,
    given: Instant,
    record: Option<Record>,
}

#[derive(Default)]
struct State {
    account: Account,
    answered: Vec<Answered>,
    /// By this client's number.
    waiting: BTreeMap<u32, Waiting>,
    /// Answers whose record has not come, by the cluster's number.
    answers: BTreeMap<u32, Vec<f32>>,
    /// Inputs that are over: the cluster's number, the sample, and whether it was answered.
    past: Vec<(u32, usize, bool)>,
    next: u32,
}

struct Shared {
    state: Mutex<State>,
    bundle: Arc<Bundle>,
    sockets: [PathBuf; 2],
    every_us: AtomicU64,
    budget: Duration,
    paused: AtomicBool,
    stop: AtomicBool,
    /// The device with the output has heard that answers are wanted: nothing is handed in before.
    subscribed: AtomicBool,
    /// Connections to shut when all is over.
    open: Mutex<[Option<UnixStream>; 2]>,
    /// How often the device with the output was lost.
    outputs_lost: AtomicU64,
}

/// The client, running.
pub struct Stream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// Begins to hand inputs in, one every so often, each of which may take so long.
    pub fn start(cluster: &Cluster, every: Duration, budget: Duration) -> Stream {
        let output = cluster.bundle.shape.output();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            bundle: cluster.bundle.clone(),
            sockets: [cluster.socket(0), cluster.socket(output)],
            every_us: AtomicU64::new(every.as_micros() as u64),
            budget,
            paused: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            subscribed: AtomicBool::new(false),
            open: Mutex::default(),
            outputs_lost: AtomicU64::new(0),
        });
        let (gives, takes) = (shared.clone(), shared.clone());
        let threads = vec![std::thread::spawn(move || gives.give()), std::thread::spawn(move || takes.take())];
        Stream { shared, threads }
    }

    /// Inputs that were answered so far.
    pub fn answered(&self) -> Vec<Answered> {
        lock(&self.shared.state).answered.clone()
    }

    /// Waits until so many inputs in a row, handed in after `since`, were answered in full; whether that was so in time.
    pub fn is_well(&self, since: Instant, count: usize, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let answered = self.answered();
            let last = answered.iter().rev().take_while(|answer| answer.given >= since && answer.is_full).count();
            if last >= count {
                return true;
            }
            if begun.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// When the first input that was handed in after `since` was answered; waits for it.
    pub fn first_after(&self, since: Instant, patience: Duration) -> Option<Instant> {
        let begun = Instant::now();
        loop {
            let answered = self.answered();
            let first = answered.iter().filter(|answer| answer.given >= since).map(|answer| answer.answered).min();
            if first.is_some() || begun.elapsed() > patience {
                return first;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Hands nothing more in, waits for what is under way, and tells what became of all since the last time; begins anew.
    pub fn settle(&self) -> Account {
        self.shared.paused.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        while !lock(&self.shared.state).waiting.is_empty() && begun.elapsed() < self.shared.budget + PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut state = lock(&self.shared.state);
        let answered_only = state.waiting.values().filter(|waiting| waiting.record.is_some()).count() as u64;
        let none = state.waiting.len() as u64 - answered_only;
        // An answer that is recorded and never came has gone with the output's device, or is lost.
        let output_lost = self.shared.outputs_lost.swap(0, Ordering::SeqCst) > 0;
        state.account.lost += none + if output_lost { 0 } else { answered_only };
        state.account.untold += if output_lost { answered_only } else { 0 };
        state.waiting.clear();
        state.answers.clear();
        state.past.clear();
        state.answered.clear();
        let account = std::mem::take(&mut state.account);
        drop(state);
        self.shared.paused.store(false, Ordering::SeqCst);
        account
    }

    /// Ends the client.
    pub fn stop(mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for stream in lock(&self.shared.open).iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("the client does not fail");
        }
    }
}

impl Shared {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// A connection to the device with the input (0) or the output (1).
    fn open(&self, which: usize) -> Option<Line> {
        let stream = UnixStream::connect(&self.sockets[which]).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        lock(&self.open)[which] = Some(stream.try_clone().ok()?);
        let mut line =
            FramedStream::new(StdStream(stream), Identity { plan_hash: self.bundle.plan_hash, device: u8::MAX });
        line.shake_hands_with_any().ok()?;
        Some(line)
    }

    /// Hands inputs in; connects again as often as it has to.
    fn give(self: Arc<Shared>) {
        let mut at = 0usize;
        while !self.stops() {
            let Some(mut line) = self.open(0) else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            let budget_us = self.budget.as_micros() as u64;
            let alive = Arc::new(AtomicBool::new(line.send(Kind::Budget, 0, 0, &budget_us.to_le_bytes()).is_ok()));
            let Some(reads) = lock(&self.open)[0].as_ref().and_then(|stream| stream.try_clone().ok()) else { continue };
            let (hears, lives) = (self.clone(), alive.clone());
            let reader = std::thread::spawn(move || {
                let identity = Identity { plan_hash: hears.bundle.plan_hash, device: u8::MAX };
                hears.hear_records(FramedStream::new(StdStream(reads), identity));
                lives.store(false, Ordering::SeqCst);
            });
            while alive.load(Ordering::SeqCst) && !self.stops() {
                std::thread::sleep(Duration::from_micros(self.every_us.load(Ordering::Relaxed)));
                let number = {
                    let mut state = lock(&self.state);
                    let waits = self.paused.load(Ordering::SeqCst) || !self.subscribed.load(Ordering::SeqCst);
                    if waits || state.waiting.len() >= UNDER_WAY {
                        continue;
                    }
                    let number = state.next;
                    state.next = number.wrapping_add(1);
                    let sample = at % self.bundle.inputs.len();
                    state.waiting.insert(number, Waiting { sample, given: Instant::now(), record: None });
                    state.account.offered += 1;
                    number
                };
                let input = &self.bundle.inputs[at % self.bundle.inputs.len()];
                at += 1;
                if line.send(Kind::Input, number, 0, input).is_err() {
                    break;
                }
            }
            if let Some(stream) = &lock(&self.open)[0] {
                let _ = stream.shutdown(Shutdown::Both);
            }
            reader.join().expect("it does not fail");
            // What it took nobody hears of any more. Answers to what it has recorded are with another device.
            let mut state = lock(&self.state);
            let before = state.waiting.len();
            state.waiting.retain(|_, waiting| waiting.record.is_some());
            state.account.cut_off += (before - state.waiting.len()) as u64;
        }
    }

    fn hear_records(&self, mut line: Line) {
        while let Ok(header) = line.receive_header() {
            let mut payload = vec![0; header.length as usize];
            if line.receive_payload(&header, &mut payload).is_err() {
                return;
            }
            if header.kind != Kind::Record {
                continue;
            }
            let Some(record) = Record::parse(header.inference.into(), &payload) else { return };
            let mut state = lock(&self.state);
            let number = header.inference;
            match state.waiting.get_mut(&number) {
                Some(waiting) if waiting.record.is_none() => waiting.record = Some(record),
                _ => {
                    state.account.twice += 1;
                    continue;
                }
            }
            match record.outcome {
                Outcome::Late => state.account.late += 1,
                Outcome::Failed(_) => state.account.failed += 1,
                Outcome::Full => state.account.full += 1,
                Outcome::Exit(..) => state.account.exit += 1,
                Outcome::Variant(..) => state.account.variant += 1,
            }
            if matches!(record.outcome, Outcome::Late | Outcome::Failed(_)) {
                if let Some(waiting) = state.waiting.remove(&number) {
                    state.past.push((record.input, waiting.sample, false));
                }
            } else if let Some(answer) = state.answers.remove(&record.input) {
                self.answer(&mut state, number, &answer);
            }
        }
    }

    /// Answers, from the device with the output.
    fn take(self: Arc<Shared>) {
        while !self.stops() {
            let line = self.open(1).and_then(|mut line| {
                line.send(Kind::Subscribe, 0, WANTS_ANSWERS, &[]).ok()?;
                if !self.subscribed.load(Ordering::SeqCst) {
                    // Who answers this has heard of the subscription.
                    line.send(Kind::Status, 0, 0, &[]).ok()?;
                    let header = line.receive_header().ok()?;
                    line.receive_payload(&header, &mut vec![0; header.length as usize]).ok()?;
                    self.subscribed.store(true, Ordering::SeqCst);
                }
                Some(line)
            });
            let Some(mut line) = line else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            while let Ok(header) = line.receive_header() {
                let mut payload = vec![0; header.length as usize];
                if line.receive_payload(&header, &mut payload).is_err() {
                    break;
                }
                if header.kind == Kind::Output {
                    let answer = payload.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                    self.hear_answer(header.inference, answer);
                }
            }
            self.outputs_lost.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn hear_answer(&self, input: u32, answer: Vec<f32>) {
        let mut state = lock(&self.state);
        let of = |waiting: &Waiting| waiting.record.as_ref().is_some_and(|record| record.input == input);
        let number = state.waiting.iter().find(|(_, waiting)| of(waiting)).map(|(number, _)| *number);
        if let Some(number) = number {
            self.answer(&mut state, number, &answer);
        } else if let Some((_, sample, answered)) = state.past.iter().find(|(other, _, _)| *other == input).copied() {
            // What comes too late is no second answer.
            state.account.again += u64::from(answered);
            state.account.wrong += u64::from(!self.is_right(sample, &answer));
        } else if let Some(before) = state.answers.insert(input, answer) {
            state.account.again += 1;
            state.account.wrong += u64::from(state.answers.get(&input) != Some(&before));
        }
    }

    /// The answer to an input whose record is there.
    fn answer(&self, state: &mut State, number: u32, answer: &[f32]) {
        let Some(waiting) = state.waiting.remove(&number) else { return };
        let Some(record) = waiting.record else { return };
        state.past.push((record.input, waiting.sample, true));
        if !self.is_right(waiting.sample, answer) {
            state.account.wrong += 1;
            return;
        }
        let is_full = record.outcome == Outcome::Full;
        state.answered.push(Answered { given: waiting.given, answered: Instant::now(), is_full });
    }

    fn is_right(&self, sample: usize, answer: &[f32]) -> bool {
        relative_difference(answer, &self.bundle.answers[sample]) <= TOLERANCE
    }
}
