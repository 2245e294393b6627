//! A node under Linux: one thread for sockets, one for the program, one state between them.
//!
//! Both threads send, whichever has something to send; only the first reads, connects and keeps time. Connections that have
//! not said who they are wait in a short list, the oldest goes first, so they delay nobody.

use std::boxed::Box;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::string::{String, ToString};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{read, write};

use super::account::Account;
pub use super::account::{Results, Steps, Watch};
use super::links::{REOPEN, State, Stranger, lasting};
pub use super::places::{Keys, Opener, Place, Places};
use super::steps::{self, StepTimes};
use crate::node::{Counters, Flow, Guest, INPUTS, Link, Node, Plan, Record, Work};
use crate::window::Window;

/// Most connections that have not said who they are.
const GREETINGS: usize = 64;

/// Most records that wait to be taken, beside those of the inputs that the node holds.
const RECORDS: usize = 4 * INPUTS;

/// Stack of the program's thread: that which a process's first one has.
const STACK_BYTES: usize = 8 << 20;

/// A step that takes longer hangs; the slowest that are known take seconds.
const LONGEST_STEP: Duration = Duration::from_secs(120);

/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    recorded: Condvar,
    wake: OwnedFd,
    begun: Instant,
    plan: Plan<'static>,
    places: Places,
    watch: Watch,
}

/// A node that runs.
pub struct Running {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Starts a node. `seed` is of the system's random source.
pub fn start(
    plan: Plan<'static>,
    seed: u64,
    places: Places,
    program: Box<dyn Steps>,
    results: Box<dyn Results>,
    watch: Watch,
) -> Result<Running, String> {
    let listener = match places.listen {
        None => None,
        Some(place) => Some(TcpListener::bind(place).map_err(|error| std::format!("{place}: {error}"))?),
    };
    if let Some(listener) = &listener {
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    }
    let sockets = places.peers.iter().map(lasting).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let (address, bytes) = program.memory();
    let mut node = Node::with_links(plan.peers.iter().map(|_| Link::default()).collect(), plan, seed);
    if places.keys.as_ref().is_some_and(|keys| !node.set_keys(&keys.private, &keys.peers, keys.secret)) {
        return Err("a peer's public key is none, or one is missing".into());
    }
    let room = |bytes: u16| if places.keys.is_some() { std::vec![0; bytes.into()] } else { Vec::new() };
    let state = State {
        node,
        rooms: plan.peers.iter().map(|peer| room(peer.chunk_bytes)).collect(),
        window: Window(address, bytes),
        reopen: sockets.iter().map(|_| Instant::now()).collect(),
        full: sockets.iter().map(|_| false).collect(),
        sockets,
        waits_full: Vec::new(),
        inputs: (0..INPUTS).map(|_| Vec::new()).collect(),
        begins: std::vec![false; INPUTS],
        begins_next: false,
        records: VecDeque::new(),
        next_tag: 0,
        sleeps_until_us: 0,
        turns: 0,
        busy_since: None,
        told: std::vec![false; plan.peers.len()],
        stopping: false,
    };
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        work: Condvar::new(),
        recorded: Condvar::new(),
        wake,
        begun: Instant::now(),
        plan,
        places,
        watch,
    });
    let (links, computes) = (shared.clone(), shared.clone());
    let sockets = std::thread::Builder::new().name("links".into()).spawn(move || links.serve_sockets(listener));
    let computes = move || computes.compute(program, results);
    let computes = std::thread::Builder::new().name("steps".into()).stack_size(STACK_BYTES).spawn(computes);
    let threads = [sockets, computes].into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    Ok(Running { shared, threads: Mutex::new(threads) })
}

impl Running {
    /// Hands an input in and waits for its record; none if the device takes no more inputs now.
    pub fn infer(&self, input: &[u8], budget: Duration) -> Option<Record> {
        let tag = self.submit(input, budget)?;
        let mut state = self.shared.lock();
        loop {
            if let Some(at) = state.records.iter().position(|record| record.tag == tag) {
                let record = state.records.remove(at);
                self.shared.collect(&mut state);
                return record;
            }
            state = self.shared.recorded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands an input in; the tag of its record, or none if the device takes no more inputs now.
    pub fn submit(&self, input: &[u8], budget: Duration) -> Option<u64> {
        let mut state = self.shared.lock();
        let tag = state.next_tag;
        let taken = self.shared.accept(&mut state, tag, (None, budget), input);
        state.next_tag += u64::from(taken);
        drop(state);
        self.shared.work.notify_one();
        taken.then_some(tag)
    }

    /// Hands an input in under a tag of the caller's, on a route if one is wished; waits until there is room. Whether it was
    /// accepted: it is not where inputs are not given, or when the work ends.
    pub fn submit_as(&self, tag: u64, input: &[u8], route: Option<u8>, budget: Duration) -> bool {
        if self.shared.plan.device != self.shared.plan.input {
            return false;
        }
        let mut state = self.shared.lock();
        while !state.stopping && !self.shared.accept(&mut state, tag, (route, budget), input) {
            state = self.shared.recorded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let accepted = !state.stopping;
        drop(state);
        self.shared.work.notify_one();
        accepted
    }

    /// The next input finds states of zero: those that were handed in before it leave it nothing.
    pub fn reset_states(&self) {
        self.shared.lock().begins_next = true;
    }

    /// The oldest record that nobody has taken; waits for it.
    pub fn next_record(&self) -> Option<Record> {
        let mut state = self.shared.lock();
        loop {
            if let Some(record) = state.records.pop_front() {
                self.shared.collect(&mut state);
                return Some(record);
            }
            if state.stopping {
                return None;
            }
            state = self.shared.recorded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.shared.lock().node.counters()
    }

    /// Peers of the plan.
    pub fn peers(&self) -> usize {
        self.shared.plan.peers.len()
    }

    /// Whether there is a session with a peer of the plan.
    pub fn is_talking(&self, link: usize) -> bool {
        self.shared.lock().node.is_talking(link)
    }

    /// Whether a peer of the plan has said last, and proven, that it was compiled from another one.
    pub fn is_of_another_plan(&self, link: usize) -> bool {
        self.shared.lock().node.is_of_another_plan(link)
    }

    /// Whether inferences can take a route.
    pub fn can_take(&self, route: u8) -> bool {
        let mut state = self.shared.lock();
        // What is known is looked at anew when work is asked for.
        state.node.on_tick(self.shared.now_us());
        state.node.can_take(route)
    }

    /// Whether both threads go on: that for sockets turns within `patience`, and no step of the program hangs.
    pub fn goes_on(&self, patience: Duration) -> bool {
        let seen = |state: &State| (state.turns, state.busy_since);
        let (before, busy_since) = seen(&self.shared.lock());
        if busy_since.is_some_and(|since| since.elapsed() > LONGEST_STEP) {
            return false;
        }
        self.shared.wake();
        let begun = Instant::now();
        while seen(&self.shared.lock()).0 == before {
            if begun.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Ends the work, and waits for the threads.
    pub fn stop(&self) {
        {
            let mut state = self.shared.lock();
            state.node.stop();
            self.shared.settle(&mut state);
            state.stopping = true;
        }
        self.shared.work.notify_all();
        self.shared.recorded.notify_all();
        self.shared.wake();
        for thread in core::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn wake(&self) {
        let _ = write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Accepts an input, if there is room.
    fn accept(&self, state: &mut State, tag: u64, (route, budget): (Option<u8>, Duration), input: &[u8]) -> bool {
        state.node.on_tick(self.now_us());
        let budget_us = u64::try_from(budget.as_micros()).unwrap_or(u64::MAX);
        let place = state.node.accept_on(tag, route, budget_us);
        let Some(slot) = place.and_then(|place| state.inputs.get_mut(place)) else { return false };
        slot.clear();
        slot.extend_from_slice(input);
        let begins = core::mem::take(&mut state.begins_next);
        place.and_then(|place| state.begins.get_mut(place)).into_iter().for_each(|slot| *slot = begins);
        true
    }

    /// The thread of the program.
    fn compute(&self, mut program: Box<dyn Steps>, mut results: Box<dyn Results>) {
        let mut account = Account::new(self.watch);
        let mut state = self.lock();
        while !state.stopping {
            state.node.on_tick(self.now_us());
            let work = state.node.poll_work();
            let finished = state.node.poll_finished();
            let under_way = state.node.under_way();
            self.settle(&mut state);
            // The other thread sleeps for too long, or does not wait for a socket to take more.
            if state.node.due_us() < state.sleeps_until_us || state.full != state.waits_full {
                state.sleeps_until_us = 0;
                self.wake();
            }
            if work == Work::Nothing && finished.is_none() {
                account.begin(under_way);
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let input = match work {
                Work::Load { place, .. } => state.inputs.get_mut(place).map(core::mem::take),
                _ => None,
            };
            let begins = matches!(work, Work::Load { place, .. } if state.begins.get(place) == Some(&true));
            state.busy_since = Some(Instant::now());
            drop(state);
            finished.iter().for_each(|finished| account.end(finished, &self.plan, results.as_mut()));
            account.begin(under_way);
            let flow = match work {
                Work::Load { route, .. } => {
                    if begins {
                        program.reset();
                    }
                    program.load(route, input.as_deref().unwrap_or_default());
                    Flow::Next
                }
                Work::Compute { route, step } => account.step(program.as_mut(), route, step),
                Work::Deliver { input, route, exit } => {
                    program.keep(route);
                    results.answer(input, route, program.output(route, exit));
                    Flow::Next
                }
                Work::Nothing => Flow::Next,
            };
            state = self.lock();
            state.busy_since = None;
            // It may have to be loaded again, unless its time was up meanwhile and the place is another input's by now.
            if let (Work::Load { place, .. }, Some(input)) = (work, input) {
                if let Some(slot) = state.inputs.get_mut(place).filter(|slot| slot.is_empty()) {
                    *slot = input;
                }
            }
            state.node.on_tick(self.now_us());
            if work != Work::Nothing {
                state.node.on_done(flow);
            }
        }
    }

    /// Sends what there is, and tells of records.
    fn settle(&self, state: &mut State) {
        for at in 0..state.sockets.len() {
            state.send(at);
        }
        self.collect(state);
    }

    /// Takes records from the node while there is room: none is dropped, and inputs whose records wait there keep their
    /// places, so whoever takes no records hands in no more inputs.
    fn collect(&self, state: &mut State) {
        let before = state.records.len();
        while state.records.len() < RECORDS {
            let Some(record) = state.node.poll_record() else { break };
            state.records.push_back(record);
        }
        if state.records.len() > before {
            self.recorded.notify_all();
        }
    }

    /// The thread of sockets and time.
    fn serve_sockets(&self, listener: Option<TcpListener>) {
        let mut strangers: Vec<Stranger> = Vec::new();
        let slower = self.watch.slower;
        let _pace = (slower > 1.0).then(|| StepTimes::new(false, slower));
        let mut buffer = std::vec![0u8; READ_BYTES];
        let patience = Duration::from_micros(self.plan.detect_us.into());
        loop {
            let mut state = self.lock();
            if state.stopping {
                return;
            }
            state.turns = state.turns.wrapping_add(1);
            state.node.on_tick(self.now_us());
            if let Some(listener) = &listener {
                // Who makes connections without end keeps nobody waiting: the rest has its turn after the links.
                for (stream, _) in (0..GREETINGS).map_while(|_| listener.accept().ok()) {
                    if strangers.len() >= GREETINGS {
                        // Who has greeted with a key is nearly a peer.
                        let unknown = strangers.iter().position(|stranger| !stranger.guest.has_greeted());
                        strangers.remove(unknown.unwrap_or(0));
                    }
                    if stream.set_nonblocking(true).and(stream.set_nodelay(true)).is_ok() {
                        let (socket, guest) = (Arc::new(OwnedFd::from(stream)), Guest::default());
                        strangers.push(Stranger { socket, guest, since: Instant::now() });
                    }
                }
            }
            strangers.retain_mut(|stranger| stranger.since.elapsed() < patience && state.greet(stranger));
            for at in 0..state.sockets.len() {
                state.serve(at, &self.places, &mut buffer);
            }
            state.tell();
            self.settle(&mut state);
            let waits = state.waits();
            state.waits_full = state.full.clone();
            state.sleeps_until_us = state.node.due_us();
            let left = Duration::from_micros(state.sleeps_until_us.saturating_sub(self.now_us()));
            let closed = state.has_closed_line(&self.places);
            drop(state);
            self.work.notify_one();
            steps::catch_up();
            let mut fds: Vec<PollFd<'_>> = std::vec![PollFd::new(&self.wake, PollFlags::IN)];
            fds.extend(listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
            fds.extend(strangers.iter().map(|stranger| PollFd::new(&stranger.socket, PollFlags::IN)));
            fds.extend(waits.iter().map(|(socket, flags)| PollFd::new(socket, *flags)));
            let left = if closed { left.min(REOPEN) } else { left };
            let left = left.min(if strangers.is_empty() { Duration::from_secs(10) } else { patience });
            let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: i64::from(left.subsec_nanos()) as _ };
            let _ = poll(&mut fds, Some(&timeout));
            let mut count = [0u8; 8];
            let _ = read(&self.wake, &mut count);
        }
    }
}
