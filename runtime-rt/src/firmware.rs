//! The life of a device without an operating system: a node between ports that are polled and its program's steps.
//!
//! The main program computes ([`Shared::run`]); between its steps it serves the ports, and while one computes a timer's
//! interrupt does ([`Shared::serve`]), so that tensors move and signs of life are given meanwhile. Nothing here ends: peers
//! may come, go and return, and whoever talks to the console may too.
//!
//! The console speaks the frames of [`crate::frame`] to one client, as a process does to those of its machine. It takes
//! one input at a time, and an order to stop not at all: there is nothing to return to.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering, compiler_fence};

use crate::console::{Console, Order};
use crate::node::{Finished, Flow, Link, Node, Plan, Record, Work};
use crate::window::Window;
use crate::{DeviceCosts, Identity};

/// A byte stream that nobody waits for, such as a UART.
pub trait Port: Send {
    /// Takes bytes that have come, and those of the same burst that come at once; how many.
    fn read(&mut self, buffer: &mut [u8]) -> usize;
    /// Sends bytes, as many as can go now; how many.
    fn write(&mut self, bytes: &[u8]) -> usize;
}

/// A program as a list of steps.
///
/// # Safety
///
/// `memory` gives the same memory each time, which may be read and written for ever: links do, in an interrupt while a step
/// runs, at the places that the plan says. Steps reach it through that pointer only, and touch of it what the plan leaves to
/// them.
pub unsafe trait Program {
    /// Where the memory is, and how many bytes; both stay as they are.
    fn memory(&self) -> (*mut u8, usize);
    /// Where an input for a route is kept until it has been answered; empty on a device without input.
    fn input_mut(&mut self, route: u8) -> &mut [u8];
    /// Puts the input that is kept to its place, if that is another.
    fn load(&mut self, route: u8);
    /// Computes a step.
    fn step(&mut self, route: u8, step: u16) -> Flow;
    /// The answer is given out: states that the inference has left are those of the next.
    fn keep(&mut self, _route: u8) {}
    /// The next inference begins with states of zero.
    fn reset(&mut self) {}
    /// The answer, of an exit if it ended there.
    fn output(&self, route: u8, exit: Option<u32>) -> &[u8];
}

/// What else the board has.
pub trait Board {
    /// Microseconds since the start. A clock that turns over is none the worse for it.
    fn now_us(&self) -> u64;
    /// The main program goes on: a watchdog need not bite.
    fn feed_watchdog(&self) {}
}

/// Bytes that are taken from a port at once.
const BURST_BYTES: usize = 64;

/// How often one port is served before the others have their turn, and the interrupt ends.
const BURSTS: usize = 8;

/// How long an input may take if its client has not said.
const BUDGET_US: u64 = 60_000_000;

/// The node and its ports, one per peer.
struct Ends {
    node: Node<'static, &'static mut [Link]>,
    ports: &'static mut [&'static mut dyn Port],
    window: Window,
}

impl Ends {
    fn serve(&mut self, now_us: u64) {
        self.node.on_tick(now_us);
        let mut buffer = [0; BURST_BYTES];
        for (at, port) in self.ports.iter_mut().enumerate() {
            for _ in 0..BURSTS {
                let count = port.read(&mut buffer);
                self.node.on_bytes(at, buffer.get_mut(..count).unwrap_or_default(), &mut self.window);
                if !send(&mut self.node, at, &self.window, *port) && count == 0 {
                    break;
                }
            }
        }
    }
}

/// Sends what a link has and its port takes; whether that was anything.
fn send(node: &mut Node<'static, &'static mut [Link]>, at: usize, window: &Window, port: &mut dyn Port) -> bool {
    let mut moved = false;
    while let Some(pieces) = node.poll_send(at, window, &mut []) {
        let (mut whole, mut gone) = (0, 0);
        for piece in pieces {
            // What is behind a piece that did not go has to wait.
            gone += if gone == whole { port.write(piece) } else { 0 };
            whole += piece.len();
        }
        node.on_sent(at, gone);
        moved |= gone > 0;
        if gone < whole {
            break;
        }
    }
    moved
}

/// What the main program and the interrupt share: whoever comes second goes away again.
pub struct Shared {
    state: AtomicU8,
    ends: UnsafeCell<MaybeUninit<Ends>>,
}

/// There is no node yet.
const EMPTY: u8 = 0;
/// Nobody uses it.
const FREE: u8 = 1;
/// Somebody does.
const HELD: u8 = 2;

// SAFETY: `with` lets one in at a time, on the one core that `new`'s caller promises.
unsafe impl Sync for Shared {}

impl Shared {
    /// Nothing yet; [`Shared::serve`] does nothing then.
    ///
    /// # Safety
    /// It is used on one core only, by a main program and by interrupts that end before it goes on.
    pub const unsafe fn new() -> Shared {
        Shared { state: AtomicU8::new(EMPTY), ends: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Does something with the node, unless somebody else does or there is none.
    fn with<T>(&self, work: impl FnOnce(&mut Ends) -> T) -> Option<T> {
        // Load and store: not every core can do both at once, and an interrupt between them has ended before the store.
        if self.state.load(Ordering::Relaxed) != FREE {
            return None;
        }
        self.state.store(HELD, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: it was written before it was free, and nobody else is inside.
        let result = work(unsafe { (*self.ends.get()).assume_init_mut() });
        compiler_fence(Ordering::SeqCst);
        self.state.store(FREE, Ordering::Relaxed);
        Some(result)
    }

    /// For the timer's interrupt, some times per tenth of the plan's `detect_us`: bytes come and go while the program
    /// computes.
    pub fn serve(&self, now_us: u64) {
        self.with(|ends| ends.serve(now_us));
    }

    /// Runs a device for ever; a second time it does nothing for ever. `links` and `ports` are one per peer of the plan, in
    /// its order; the console's frames say that they come from `device` of the cluster. `seed` is of the device's random
    /// source and differs with every start.
    pub fn run(
        &self,
        (plan, device, seed): (&Plan<'static>, u8, u64),
        (links, ports): (&'static mut [MaybeUninit<Link>], &'static mut [&'static mut dyn Port]),
        program: &mut dyn Program,
        console: &mut dyn Port,
        board: &dyn Board,
    ) -> ! {
        let (address, bytes) = program.memory();
        let window = Window(address, bytes);
        for link in links.iter_mut() {
            link.write(Link::new());
        }
        // SAFETY: all of them were written.
        let links = unsafe { &mut *(core::ptr::from_mut(links) as *mut [Link]) };
        if self.state.load(Ordering::Relaxed) == EMPTY {
            // SAFETY: nobody looks inside while it is empty.
            unsafe { (*self.ends.get()).write(Ends { node: Node::with_links(links, *plan, seed), ports, window }) };
            compiler_fence(Ordering::SeqCst);
            self.state.store(FREE, Ordering::Relaxed);
        }
        let identity = Identity { plan_hash: plan.hash, device };
        let mut main = Main::new(Console::new(console, identity));
        main.console.greet();
        loop {
            board.feed_watchdog();
            main.turn(self, program, board);
        }
    }
}

/// What there is to do for the main program.
struct Todo {
    work: Work,
    finished: Option<Finished>,
    record: Option<Record>,
}

/// The main program: computes, and serves the console when there is nothing to compute.
struct Main<'c> {
    console: Console<'c>,
    /// Whether an input has been accepted that has no record yet: its bytes have to stay.
    keeps_input: bool,
    /// Whether states begin anew with it, and with the next one.
    begins: bool,
    begins_next: bool,
    budget_us: u64,
    /// Time in steps of the inference under way.
    compute_us: u64,
}

impl<'c> Main<'c> {
    fn new(console: Console<'c>) -> Main<'c> {
        Main { console, keeps_input: false, begins: false, begins_next: false, budget_us: BUDGET_US, compute_us: 0 }
    }

    /// One turn of the loop.
    fn turn(&mut self, shared: &Shared, program: &mut dyn Program, board: &dyn Board) {
        let now_us = board.now_us();
        let todo = shared.with(|ends| {
            ends.serve(now_us);
            let work = ends.node.poll_work();
            Todo { work, finished: ends.node.poll_finished(), record: ends.node.poll_record() }
        });
        let Some(Todo { work, finished, record }) = todo else { return };
        if let Some(finished) = finished {
            self.console.report(&finished, core::mem::take(&mut self.compute_us));
        }
        if let Some(record) = record {
            self.keeps_input = false;
            self.console.record(&record);
        }
        let flow = match work {
            Work::Nothing => return self.hear(shared, program, board),
            Work::Load { route, .. } => {
                self.compute_us = 0;
                if self.begins {
                    program.reset();
                }
                program.load(route);
                Flow::Next
            }
            Work::Compute { route, step } => {
                let begun_us = board.now_us();
                let flow = program.step(route, step);
                self.compute_us += board.now_us().saturating_sub(begun_us);
                flow
            }
            Work::Deliver { input, route, exit } => {
                program.keep(route);
                self.console.answer(input, route, program.output(route, exit));
                Flow::Next
            }
        };
        shared.with(|ends| {
            ends.node.on_tick(board.now_us());
            ends.node.on_done(flow);
        });
    }

    /// Does what the console's client says.
    fn hear(&mut self, shared: &Shared, program: &mut dyn Program, board: &dyn Board) {
        let Some(order) = self.console.hear(!self.keeps_input, program, board.now_us()) else { return };
        shared.with(|ends| {
            let node = &mut ends.node;
            match order {
                Order::Input { number, route } => {
                    self.keeps_input = node.accept_on(number.into(), route, self.budget_us).is_some();
                    self.begins = core::mem::take(&mut self.begins_next);
                }
                Order::Reset => self.begins_next = true,
                Order::Budget(budget_us) => self.budget_us = budget_us,
                Order::Silence(detect_us) => node.set_detect_us(detect_us),
                Order::Status(number) => self.console.status(number, &node.counters()),
            }
        });
    }
}

impl From<(&Finished, u64)> for DeviceCosts {
    /// What an inference cost, microseconds of it in steps that compute.
    fn from((finished, compute_us): (&Finished, u64)) -> DeviceCosts {
        DeviceCosts {
            compute_us,
            wait_us: finished.took_us.saturating_sub(compute_us),
            sent_bytes: finished.sent_bytes,
            received_bytes: finished.received_bytes,
            exit: finished.exit,
        }
    }
}
