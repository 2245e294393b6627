//! Devices without an operating system, their ports sockets of this machine: between processes, and alone with a console.
#![cfg(feature = "std")]

mod adding;

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use adding::Adds;
use partita_rt::firmware::{Board, Port, Program, Shared};
use partita_rt::frame::{Header, Kind, WANTS_ANSWERS, WANTS_COSTS};
use partita_rt::hosted::driver::{Place, Places, Running, Steps, Watch, start};
use partita_rt::node::{Flow, Medium, Outcome, Plan, Record, Route, Step};
use partita_rt::{DeviceCosts, FramedStream, Identity, StdStream};

/// Bytes of a tensor.
const BYTES: usize = 3000;

/// A step that takes longer hangs.
const HUNG_US: u32 = 60_000_000;

/// A socket as a port: nobody waits for it.
struct Socket(UnixStream);

impl Port for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        match self.0.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        // Whoever has gone hears nothing, as at the end of a wire.
        self.0.write(bytes).unwrap_or(0)
    }
}

struct Clock(Instant);

impl Board for Clock {
    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// Adds for ten milliseconds or longer.
struct AddsSlowly {
    adds: Adds<BYTES>,
    computes: Duration,
    input: Vec<u8>,
    /// Whom the timer interrupts while a step computes.
    shared: Option<(&'static Shared, Instant)>,
}

impl AddsSlowly {
    fn new(number: u8) -> AddsSlowly {
        AddsSlowly { adds: Adds::new(number), computes: Duration::ZERO, input: vec![0; BYTES], shared: None }
    }
}

// SAFETY: the memory is that of the program that adds.
unsafe impl Program for AddsSlowly {
    fn memory(&self) -> (*mut u8, usize) {
        self.adds.memory()
    }

    fn input_mut(&mut self, _route: u8) -> &mut [u8] {
        &mut self.input
    }

    fn load(&mut self, route: u8) {
        self.adds.load(route, &self.input);
    }

    fn step(&mut self, route: u8, step: u16) -> Flow {
        let begun = Instant::now();
        while begun.elapsed() < self.computes {
            std::thread::sleep(Duration::from_millis(10));
            // On one core an interrupt ends before the step goes on, as this call does.
            self.shared.iter().for_each(|(shared, begun)| shared.serve(begun.elapsed().as_micros() as u64));
        }
        self.adds.step(route, step)
    }

    fn output(&self, route: u8, exit: Option<u32>) -> &[u8] {
        self.adds.output(route, exit)
    }
}

/// The plan of a device of a pipeline of three over serial lines; the first has the input, the last the answer.
fn plan(device: u8) -> Plan<'static> {
    Plan { hung_us: HUNG_US, ..adding::plan::<BYTES>(device, Medium::Line, 256) }
}

/// The plan of a device without peers.
fn alone() -> Plan<'static> {
    const STEPS: &[Step<'static>] = &[Step::Compute];
    Plan {
        hash: 7,
        device: 0,
        input: 0,
        output: 0,
        peers: &[],
        routes: &[Route { steps: STEPS, devices: 1, links: &[] }],
        family: None,
        detect_us: 300_000,
        hung_us: HUNG_US,
    }
}

fn pair() -> [UnixStream; 2] {
    let (one, other) = UnixStream::pair().expect("sockets can be made");
    one.set_nonblocking(true).expect("it can be");
    [one, other]
}

/// Starts firmware with these ends of lines; gives the other end of its console.
fn firmware(plan: Plan<'static>, mut program: AddsSlowly, lines: Vec<UnixStream>) -> UnixStream {
    let [console, client] = pair();
    std::thread::spawn(move || {
        // SAFETY: this thread alone uses it.
        let shared: &'static Shared = Box::leak(Box::new(unsafe { Shared::new() }));
        let clock = Clock(Instant::now());
        program.shared = Some((shared, clock.0));
        let links = Vec::leak(lines.iter().map(|_| MaybeUninit::uninit()).collect());
        let ports = lines.into_iter().map(|line| -> &'static mut dyn Port { Box::leak(Box::new(Socket(line))) });
        let ports = Vec::leak(ports.collect());
        shared.run((&plan, plan.device, 5), (links, ports), &mut program, &mut Socket(console), &clock)
    });
    client
}

#[test]
fn firmware_between_processes_answers_and_is_not_missed_while_it_computes() {
    let (sends, answers) = channel();
    let ([left, one], [right, other]) = (pair(), pair());
    let mut program = AddsSlowly::new(1);
    // Longer than anybody may be silent.
    program.computes = Duration::from_millis(700);
    let _console = firmware(plan(1), program, vec![left, right]);
    let hosted = |number: u8, end: UnixStream| -> Running {
        end.set_nonblocking(true).expect("it can be");
        let open = move || Ok(OwnedFd::from(end.try_clone()?));
        let places = Places { peers: vec![Place::Line(Box::new(open))], ..Places::default() };
        let answers = sends.clone();
        let deliver = move |_: u32, _: u8, bytes: &[u8]| drop(answers.send(bytes.to_vec()));
        let program = Box::new(Adds::<BYTES>::new(number));
        start(plan(number), number.into(), places, program, Box::new(deliver), Watch::default()).expect("it starts")
    };
    let (first, last) = (hosted(0, one), hosted(2, other));
    for seed in 0..4u8 {
        let input: Vec<u8> = (0..BYTES).map(|at| (at as u8).wrapping_mul(seed)).collect();
        let record = first.infer(&input, Duration::from_secs(20)).expect("there is room");
        assert_eq!(record.outcome, Outcome::Full);
        let answer = answers.recv_timeout(Duration::from_secs(1)).expect("it was delivered");
        assert!(answer.iter().zip(&input).all(|(answer, input)| *answer == input.wrapping_add(3)));
    }
    // A machine that is busy with other tests may hold up this thread for as long; that happens rarely, not each time.
    let silent = first.counters().silent + last.counters().silent;
    assert!(silent < 3, "its peers lost it {silent} times in 4 inferences");
    first.stop();
    last.stop();
}

type Line = FramedStream<StdStream<UnixStream>>;

/// The next frame of a kind, and its payload.
fn next(console: &mut Line, kind: Kind) -> (Header, Vec<u8>) {
    loop {
        let header = console.receive_header().expect("it is there");
        let mut payload = vec![0; header.length as usize];
        console.receive_payload(&header, &mut payload).expect("it is whole");
        if header.kind == kind {
            return (header, payload);
        }
    }
}

/// The bytes of a frame.
fn frame(kind: Kind, number: u32, message: u16, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, 7, number, message, u8::MAX, payload);
    [&header.emit()[..], payload].concat()
}

#[test]
fn a_console_takes_inputs_whatever_else_comes() {
    let mut raw = firmware(alone(), AddsSlowly::new(1), vec![]);
    raw.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be");
    let stream = StdStream(raw.try_clone().expect("it can be"));
    let mut console = FramedStream::new(stream, Identity { plan_hash: 7, device: u8::MAX });
    next(&mut console, Kind::Hello);
    let mut put = |bytes: &[u8]| raw.write_all(bytes).expect("it listens");
    put(&frame(Kind::Hello, 0, 0, &[]));
    next(&mut console, Kind::Hello);
    put(&frame(Kind::Subscribe, 0, WANTS_ANSWERS | WANTS_COSTS, &[]));
    let input: Vec<u8> = (0..BYTES).map(|at| at as u8).collect();
    let mut damaged = frame(Kind::Input, 1, 0, &input);
    damaged[500] ^= 1;
    // Noise; an input that was damaged, one of another length, one of another plan; an order to stop; then one by halves.
    put(b"PtPPt\0 boot messages Pt\x01");
    put(&damaged);
    put(&frame(Kind::Input, 2, 0, &input[1..]));
    put(&[&Header::new(Kind::Input, 8, 3, 0, u8::MAX, &input).emit()[..], &input].concat());
    put(&frame(Kind::Stop, 0, 0, &[]));
    let sound = frame(Kind::Input, 4, 0, &input);
    put(&sound[..700]);
    std::thread::sleep(Duration::from_millis(50));
    put(&sound[700..]);
    for number in [4, 5, 6] {
        let (answered, answer) = next(&mut console, Kind::Output);
        assert!(answer.iter().zip(&input).all(|(answer, input)| *answer == input.wrapping_add(1)));
        // What an inference cost and what became of its input are said in any order.
        let mut found: Vec<(Header, Vec<u8>)> = Vec::new();
        while found.len() < 2 {
            let header = console.receive_header().expect("it is there");
            let mut payload = vec![0; header.length as usize];
            console.receive_payload(&header, &mut payload).expect("it is whole");
            found.push((header, payload));
        }
        let of = |kind: Kind| found.iter().find(|(header, _)| header.kind == kind).expect("it is said");
        let (header, record) = of(Kind::Record);
        assert_eq!(header.inference, number);
        let record = Record::parse(number.into(), record).expect("it is a record");
        assert_eq!((record.outcome, record.input), (Outcome::Full, answered.inference));
        let (header, report) = of(Kind::Report);
        let costs = DeviceCosts::parse(report[..].try_into().expect("it is a report"));
        assert_eq!((header.inference, costs.sent_bytes), (answered.inference, 0));
        // The next ones wait until there is room.
        if number == 4 {
            put(&[frame(Kind::Input, 5, 0, &input), frame(Kind::Input, 6, 0, &input)].concat());
        }
    }
    put(&frame(Kind::Status, 9, 0, &[]));
    let (header, status) = next(&mut console, Kind::Status);
    let status = String::from_utf8(status).expect("it is text");
    assert!(header.inference == 9 && status.contains("\npartita_sessions_begun_total 0\n"), "{status}");
    // A client that went away in the middle of a frame is forgotten.
    put(&sound[..900]);
    std::thread::sleep(Duration::from_millis(1500));
    put(&frame(Kind::Input, 7, 0, &input));
    let (header, _) = next(&mut console, Kind::Record);
    assert_eq!(header.inference, 7);
}
