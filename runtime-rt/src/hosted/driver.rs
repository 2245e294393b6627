//! A node under Linux: one thread for sockets, one for the program, one state between them.
//!
//! Both threads send, whichever has something to send; only the first reads, connects and keeps time. Connections that have
//! not said who they are wait in a short list, the oldest goes first, so they delay nobody.

use std::boxed::Box;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::string::{String, ToString};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, IoSlice, read, write, writev};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::account::Account;
pub use super::account::{Results, Steps, Watch};
use super::steps::{self, StepTimes};
use crate::node::{Counters, Flow, Greeting, Guest, INPUTS, Link, Medium, Node, Order, Plan, Record, Work};
use crate::noise::{Private, Public};
use crate::window::Window;

/// Opens a line that does not block; asked again, now and then, when it cannot or when the line has ended.
pub type Opener = dyn Fn() -> std::io::Result<OwnedFd> + Send + Sync;

/// Where a peer is.
pub enum Place {
    /// It connects to this device.
    Connects,
    /// It listens there.
    At(SocketAddr),
    /// Datagrams go from here to there.
    Datagrams {
        /// Here.
        local: SocketAddr,
        /// There.
        remote: SocketAddr,
    },
    /// At the other end of a line.
    Line(Box<Opener>),
}

/// By what devices know each other.
pub struct Keys {
    /// This device's.
    pub private: Private,
    /// Its peers', in the order of the plan.
    pub peers: Vec<Public>,
    /// Of the system's random source.
    pub secret: [u8; 32],
}

/// Where everybody is.
#[derive(Default)]
pub struct Places {
    /// By what they are known there; without, anybody is believed.
    pub keys: Option<Keys>,
    /// Where connections are accepted, if any peer makes one.
    pub listen: Option<SocketAddr>,
    /// Each of the plan's peers.
    pub peers: Vec<Place>,
}

/// How long a line that could not be opened is left alone.
const REOPEN: Duration = Duration::from_millis(100);

/// Most connections that have not said who they are.
const GREETINGS: usize = 64;

/// Stack of the program's thread: that which a process's first one has.
const STACK_BYTES: usize = 8 << 20;

/// A step that takes longer hangs; the slowest that are known take seconds.
const LONGEST_STEP: Duration = Duration::from_secs(120);

/// How often one link is read before others have their turn.
const READS: usize = 32;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// A link's socket.
#[derive(Clone, Default)]
enum Socket {
    #[default]
    None,
    Connecting(Arc<OwnedFd>),
    Open(Arc<OwnedFd>),
    /// A line, or a socket for datagrams: it never ends.
    Lasting(Arc<OwnedFd>, Medium),
}

impl Socket {
    /// Where bytes go and come from.
    fn open(&self) -> Option<(Arc<OwnedFd>, Medium)> {
        match self {
            Socket::Open(socket) => Some((socket.clone(), Medium::Connection)),
            Socket::Lasting(socket, medium) => Some((socket.clone(), *medium)),
            Socket::None | Socket::Connecting(_) => None,
        }
    }
}

/// Opens what stays open.
fn lasting(place: &Place) -> std::io::Result<Socket> {
    Ok(match place {
        Place::Connects | Place::At(_) | Place::Line(_) => Socket::None,
        Place::Datagrams { local, remote } => {
            let socket = UdpSocket::bind(local)?;
            socket.connect(remote)?;
            socket.set_nonblocking(true)?;
            Socket::Lasting(Arc::new(socket.into()), Medium::Datagrams)
        }
    })
}

/// A connection of nobody yet.
struct Stranger {
    socket: Arc<OwnedFd>,
    guest: Guest,
    since: Instant,
}

struct State {
    node: Node<'static, Vec<Link>>,
    window: Window,
    sockets: Vec<Socket>,
    /// Where tensors are sealed for each link; empty without keys.
    rooms: Vec<Vec<u8>>,
    /// When lines that are not open are tried again.
    reopen: Vec<Instant>,
    /// Whether a socket takes no more at the moment.
    full: Vec<bool>,
    /// The same when the thread for sockets began to wait.
    waits_full: Vec<bool>,
    inputs: Vec<Vec<u8>>,
    /// Whether states begin anew with the input of a place, and with the next one.
    begins: Vec<bool>,
    begins_next: bool,
    records: VecDeque<Record>,
    next_tag: u64,
    /// Until when the thread for sockets sleeps.
    sleeps_until_us: u64,
    /// How often the thread for sockets has looked around.
    turns: u64,
    /// Since when the program's thread has been at what it does now, if it does anything.
    busy_since: Option<Instant>,
    /// Of whom it was said that they are of another plan.
    told: Vec<bool>,
    stopping: bool,
}

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
                return state.records.remove(at);
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
            // It may have to be loaded again.
            if let (Work::Load { place, .. }, Some(input)) = (work, input) {
                state.inputs.get_mut(place).into_iter().for_each(|slot| *slot = input.clone());
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
        let before = state.records.len();
        while let Some(record) = state.node.poll_record().filter(|_| state.records.len() < 4 * INPUTS) {
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
                while let Ok((stream, _)) = listener.accept() {
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

impl State {
    /// What to wait for.
    fn waits(&self) -> Vec<(Arc<OwnedFd>, PollFlags)> {
        let sockets = self.sockets.iter().zip(&self.full);
        let wait = |(socket, full): (&Socket, &bool)| match socket {
            Socket::Connecting(socket) => Some((socket.clone(), PollFlags::OUT)),
            _ => {
                let flags = if *full { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
                socket.open().map(|(socket, _)| (socket, flags))
            }
        };
        sockets.filter_map(wait).collect()
    }

    /// Says once of whom nothing is to be hoped for.
    fn tell(&mut self) {
        for (at, told) in self.told.iter_mut().enumerate() {
            let differs = self.node.is_of_another_plan(at);
            if differs && !core::mem::replace(told, differs) {
                std::eprintln!("peer number {at} was compiled from another plan; --status names it");
            }
            *told = differs;
        }
    }

    /// Sends what a link has and its socket takes.
    fn send(&mut self, at: usize) {
        let Some((socket, medium)) = self.sockets.get(at).and_then(Socket::open) else { return };
        let room = self.rooms.get_mut(at).map_or(&mut [][..], Vec::as_mut_slice);
        while let Some(pieces) = self.node.poll_send(at, &self.window, room) {
            let whole = pieces.iter().map(|piece| piece.len()).sum();
            match writev(&socket, &pieces.map(IoSlice::new)) {
                Ok(count) => self.node.on_sent(at, count),
                Err(Errno::INTR) => {}
                // A datagram that is refused is lost, and nobody may be there yet.
                Err(error) if medium == Medium::Datagrams && error != Errno::AGAIN => self.node.on_sent(at, whole),
                Err(Errno::AGAIN) => {
                    self.full.get_mut(at).into_iter().for_each(|full| *full = true);
                    return;
                }
                Err(_) => {
                    self.drop_socket(at);
                    if medium == Medium::Connection {
                        self.node.on_closed(at);
                    }
                    return;
                }
            }
        }
        self.full.get_mut(at).into_iter().for_each(|full| *full = false);
    }

    fn drop_socket(&mut self, at: usize) {
        self.sockets.get_mut(at).into_iter().for_each(|socket| *socket = Socket::None);
        self.full.get_mut(at).into_iter().for_each(|full| *full = false);
    }

    /// Does what is to be done about a link's connection, and reads what has come.
    fn serve(&mut self, at: usize, places: &Places, buffer: &mut [u8]) {
        match self.node.poll_order(at) {
            Some(Order::Close) => self.drop_socket(at),
            Some(Order::Connect) => match places.peers.get(at).map(begin_connecting) {
                Some(Ok(socket)) => {
                    self.sockets.get_mut(at).into_iter().for_each(|slot| *slot = Socket::Connecting(socket.clone()));
                }
                Some(Err(_)) | None => {
                    self.drop_socket(at);
                    self.node.on_closed(at);
                }
            },
            None => {}
        }
        if let Some(Socket::Connecting(socket)) = self.sockets.get(at).cloned() {
            match is_connected(&socket) {
                None => return,
                Some(true) => {
                    self.sockets.get_mut(at).into_iter().for_each(|slot| *slot = Socket::Open(socket.clone()));
                    self.node.on_connected(at);
                }
                Some(false) => {
                    self.drop_socket(at);
                    self.node.on_closed(at);
                }
            }
        }
        self.open_line(at, places);
        let Some((socket, medium)) = self.sockets.get(at).and_then(Socket::open) else { return };
        // A peer that never stops does not keep the others waiting.
        for _ in 0..READS {
            match read(&socket, &mut *buffer) {
                Ok(0) if medium != Medium::Datagrams => {}
                Ok(count) => {
                    self.node.on_bytes(at, buffer.get_mut(..count).unwrap_or_default(), &mut self.window);
                    if count < buffer.len() && medium != Medium::Datagrams {
                        return;
                    }
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) if medium == Medium::Datagrams => return,
                Err(_) => {}
            }
            self.drop_socket(at);
            if medium == Medium::Connection {
                self.node.on_closed(at);
            }
            return;
        }
    }

    /// Opens a line that is not open, if it is time to.
    fn open_line(&mut self, at: usize, places: &Places) {
        let (Some(Place::Line(open)), Some(Socket::None)) = (places.peers.get(at), self.sockets.get(at)) else {
            return;
        };
        let Some(reopen) = self.reopen.get_mut(at).filter(|reopen| Instant::now() >= **reopen) else { return };
        *reopen = Instant::now() + REOPEN;
        if let (Ok(line), Some(slot)) = (open(), self.sockets.get_mut(at)) {
            *slot = Socket::Lasting(Arc::new(line), Medium::Line);
        }
    }

    fn has_closed_line(&self, places: &Places) -> bool {
        let lines = self.sockets.iter().zip(&places.peers);
        lines.into_iter().any(|(socket, place)| matches!((socket, place), (Socket::None, Place::Line(_))))
    }

    /// Reads what a stranger says; whether it is still one.
    fn greet(&mut self, stranger: &mut Stranger) -> bool {
        let mut bytes = [0u8; 256];
        let count = match read(&stranger.socket, &mut bytes) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        let mut rest = bytes.get_mut(..count).unwrap_or_default();
        loop {
            match self.node.greet(&mut stranger.guest, &mut rest) {
                Greeting::Unknown => return true,
                Greeting::Refused => return false,
                Greeting::Answer => {
                    // A socket that takes not even this is nobody's.
                    let answer = stranger.guest.answer();
                    if write(&stranger.socket, answer) != Ok(answer.len()) {
                        return false;
                    }
                }
                Greeting::Peer(at) => {
                    let socket = Socket::Open(stranger.socket.clone());
                    self.sockets.get_mut(at).into_iter().for_each(|slot| *slot = socket.clone());
                    self.full.get_mut(at).into_iter().for_each(|full| *full = false);
                    self.node.welcome(core::mem::take(&mut stranger.guest));
                    self.node.on_bytes(at, rest, &mut self.window);
                    return false;
                }
            }
        }
    }
}

/// Begins to connect without waiting.
fn begin_connecting(place: &Place) -> Result<Arc<OwnedFd>, Errno> {
    let Place::At(place) = place else { return Err(Errno::DESTADDRREQ) };
    let family = if place.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, place) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(Arc::new(socket)),
        Err(error) => Err(error),
    }
}

/// Whether a connection is there; none while it is being made.
fn is_connected(socket: &Arc<OwnedFd>) -> Option<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&now)) == Ok(0) {
        return None;
    }
    let sound = matches!(sockopt::socket_error(socket.as_fd()), Ok(Ok(())));
    Some(sound && TcpStream::from(socket.try_clone().ok()?).set_nodelay(true).is_ok())
}
