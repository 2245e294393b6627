//! Two devices with two routes on a link that gets slow and fast again.
#![cfg(feature = "std")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use partita_rt::family::{Condition, Family};
use partita_rt::hosted::driver::{Place, Places, Running, Steps, Watch, start};
use partita_rt::node::{Flow, Medium, Outcome, Part, Peer, Plan, Route, Step};

/// So fast that a busy machine, which passes bytes on late, is still much faster than what the first route wants.
const FAST: u64 = 50_000_000;
const SLOW: u64 = 40_000;

/// Payload of the first route; the second sends nothing.
const LARGE: usize = 60_000;

static FAMILY: Family = Family {
    routes: &["far", "near"],
    conditions: &[
        Condition { missing: &[], unneeded: &[], bytes_per_second: &[0.5e6], route: 0, expected_us: 240_000 },
        Condition { missing: &[], unneeded: &[1], bytes_per_second: &[0.04e6], route: 1, expected_us: 1000 },
    ],
    links: &[(0, 1, 0)],
    closes: true,
};

/// Sends its input to the other device and back on route 0, and keeps it on route 1. What leaves lies first, what comes
/// behind it.
struct Echo(*mut u8);

// SAFETY: the memory is leaked, and used by one program and its node.
unsafe impl Send for Echo {}

// SAFETY: the memory is leaked and stays where it is; it is reached through its pointer alone, where the plan says.
unsafe impl Steps for Echo {
    fn memory(&self) -> (*mut u8, usize) {
        (self.0, 2 * LARGE)
    }

    fn input_bytes(&self, _route: u8) -> usize {
        1
    }

    fn load(&mut self, route: u8, input: &[u8]) {
        let place = if route == 0 { 0 } else { LARGE };
        // SAFETY: inside the memory, and nothing leaves or comes while an input is loaded.
        unsafe { self.0.add(place).write_bytes(input[0], LARGE) };
    }

    fn step(&mut self, _route: u8, _step: u16) -> Flow {
        Flow::Next
    }

    fn output(&self, _route: u8, _exit: Option<u32>) -> &[u8] {
        // SAFETY: inside the memory, and nobody writes there before the next inference.
        unsafe { core::slice::from_raw_parts(self.0.add(LARGE), LARGE) }
    }
}

fn plan(device: u8) -> Plan<'static> {
    let part = |message: u16, offset_bytes: usize, bound: u16| -> &'static [Part] {
        let (offset_bytes, bytes) = (offset_bytes as u32, LARGE as u32);
        vec![Part { peer: 1 - device, message, offset_bytes, bytes, bound }].leak()
    };
    let far = match device {
        0 => vec![
            Step::Exchange { sends: part(0, 0, 2), receives: &[] },
            Step::Exchange { sends: &[], receives: part(1, LARGE, 0) },
        ],
        _ => vec![
            Step::Exchange { sends: &[], receives: part(0, 0, 0) },
            Step::Exchange { sends: part(1, 0, 2), receives: &[] },
        ],
    };
    let near = if device == 0 { vec![Step::Compute] } else { vec![] };
    let routes = vec![
        Route { steps: far.leak(), devices: 0b11, links: &[(0, 1)] },
        Route { steps: near.leak(), devices: 0b01, links: &[] },
    ];
    let peer = Peer { device: 1 - device, medium: Medium::Connection, chunk_bytes: 4096, calls: device == 1 };
    Plan {
        hash: 7,
        device,
        input: 0,
        output: 0,
        peers: vec![peer].leak(),
        routes: routes.leak(),
        family: Some(&FAMILY),
        // Signs of life wait behind what a slow link holds.
        detect_us: 5_000_000,
        hung_us: 0,
    }
}

/// Passes bytes on at a rate that may change, both ways.
fn throttled(rate: &Arc<AtomicU64>, one: &TcpStream, other: &TcpStream) {
    for (from, to) in [(one, other), (other, one)] {
        let (mut from, mut to) =
            (from.try_clone().expect("it can be cloned"), to.try_clone().expect("it can be cloned"));
        let rate = Arc::clone(rate);
        std::thread::spawn(move || {
            let mut buffer = [0u8; 8000];
            let mut free_at = Instant::now();
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let now = Instant::now();
                let takes = Duration::from_secs_f64(count as f64 / rate.load(Ordering::Relaxed) as f64);
                free_at = free_at.max(now) + takes;
                std::thread::sleep(free_at - now);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
    }
}

/// Where a device is reached by way of a link whose rate may change.
fn relay(rate: &Arc<AtomicU64>, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let place = listener.local_addr().expect("it is bound");
    let rate = Arc::clone(rate);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who is not there yet is called again.
            let Ok(other) = TcpStream::connect(to) else { continue };
            for end in [&stream, &other] {
                end.set_nodelay(true).expect("a socket has this option");
            }
            throttled(&rate, &stream, &other);
        }
    });
    place
}

#[test]
fn a_slow_link_changes_the_route_and_a_fast_one_changes_it_back() {
    let rate = Arc::new(AtomicU64::new(FAST));
    let port = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port is free");
    let relay = relay(&rate, port);
    let (sends, answers) = channel();
    let device = |number: u8, places: Places| -> Running {
        let sends = sends.clone();
        let deliver = move |_: u32, _: u8, bytes: &[u8]| sends.send(bytes[LARGE - 1]).unwrap_or_default();
        let echo = Box::new(Echo(Vec::leak(vec![0u8; 2 * LARGE]).as_mut_ptr()));
        start(plan(number), number.into(), places, echo, Box::new(deliver), Watch::default()).expect("it starts")
    };
    let leader = device(0, Places { listen: Some(port), peers: vec![Place::Connects], keys: None });
    let _follower = device(1, Places { peers: vec![Place::At(relay)], ..Places::default() });
    let begin = Instant::now();
    while !leader.can_take(0) {
        assert!(begin.elapsed() < Duration::from_secs(20), "they never met");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut number = 0u8;
    let mut infer = || -> u8 {
        let record = leader.infer(&[number], Duration::from_secs(60)).expect("there is room");
        let answer = answers.recv_timeout(Duration::from_secs(1)).expect("it was delivered");
        assert_eq!(answer, number, "the answer to another input");
        number = number.wrapping_add(1);
        match record.outcome {
            Outcome::Full => 0,
            Outcome::Variant(route, None) => route,
            other => panic!("{other:?}"),
        }
    };
    // A busy machine may hold up a frame as a slow link would; then it has to go back.
    let in_a_row = |infer: &mut dyn FnMut() -> u8, wanted: usize| {
        let (mut found, begin) = (0, Instant::now());
        while found < wanted {
            found = if infer() == 0 { found + 1 } else { 0 };
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not stay on the whole network's route");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    in_a_row(&mut infer, 5);
    rate.store(SLOW, Ordering::Relaxed);
    // The first inference meets the slow link; its successors know.
    let slow: Vec<u8> = (0..4).map(|_| infer()).collect();
    assert_eq!(slow[1..], [1, 1, 1], "routes {slow:?}");
    rate.store(FAST, Ordering::Relaxed);
    let begin = Instant::now();
    while infer() != 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "it never went back");
        std::thread::sleep(Duration::from_millis(20));
    }
    // And it stays.
    in_a_row(&mut infer, 6);
}
