//! Two devices with two routes on a link that gets slow and fast again.
#![cfg(feature = "std")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use partita_rt::family::{Condition, Family};
use partita_rt::frame::Kind;
use partita_rt::hosted::{Duplex, HostedLinks};
use partita_rt::{Error, FramedStream, Identity, Links, Observer, PeerLinks, Program, StdStream, serve_family};

/// Payload of the first route; the second sends nothing.
const LARGE: usize = 60_000;

const CONDITIONS: &[Condition] = &[
    Condition { missing: &[], unneeded: &[], bytes_per_second: &[3e6], route: 0, expected_us: 10_000 },
    Condition { missing: &[], unneeded: &[1], bytes_per_second: &[0.2e6], route: 1, expected_us: 1000 },
];
const LINKS: &[(u8, u8, u8)] = &[(0, 1, 0)];
static LEADER: Family =
    Family { routes: &["far", "near"], follows: None, leads: &[1], conditions: CONDITIONS, links: LINKS, closes: true };
static FOLLOWER: Family = Family {
    routes: &["far", "near"],
    follows: Some(0),
    leads: &[],
    conditions: CONDITIONS,
    links: LINKS,
    closes: true,
};

/// Sends its input to the other device and back on route 0, and keeps it on route 1.
struct Echo {
    leads: bool,
    route: u8,
    input: Vec<u8>,
    buffer: Vec<u8>,
}

impl Program for Echo {
    fn input_mut(&mut self) -> &mut [u8] {
        &mut self.input
    }

    fn output(&self) -> &[u8] {
        if self.leads { &self.buffer } else { &[] }
    }

    fn set_route(&mut self, route: u8) -> bool {
        self.route = route;
        route < 2
    }

    fn run<L: Links, O: Observer>(&mut self, links: &mut L, _observer: &mut O) -> Result<(), Error> {
        match (self.route, self.leads) {
            (0, true) => {
                links.send(1, 0, &vec![self.input[0]; LARGE])?;
                let mut back = vec![0; LARGE];
                links.receive(1, 1, &mut back)?;
                self.buffer[0] = back[LARGE - 1];
            }
            (0, false) => {
                let mut data = vec![0; LARGE];
                links.receive(0, 0, &mut data)?;
                links.send(0, 1, &data)?;
            }
            (_, true) => self.buffer[0] = self.input[0],
            (_, false) => {}
        }
        Ok(())
    }
}

/// Passes bytes on at a rate that may change, both ways.
fn throttled(rate: &Arc<AtomicU64>, one: &TcpStream, other: &TcpStream) {
    for (from, to) in [(one, other), (other, one)] {
        let (mut from, mut to) =
            (from.try_clone().expect("it can be cloned"), to.try_clone().expect("it can be cloned"));
        let rate = Arc::clone(rate);
        std::thread::spawn(move || {
            let mut buffer = [0u8; 1000];
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

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let one = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let (other, _) = listener.accept().expect("it connects");
    for end in [&one, &other] {
        end.set_nodelay(true).expect("a socket has this option");
    }
    (one, other)
}

fn links(device: u8, peer: usize, socket: TcpStream) -> HostedLinks<1> {
    let stream: Box<dyn Duplex> = Box::new(socket.try_clone().expect("a socket can be cloned"));
    let line = FramedStream::new(StdStream(stream), Identity { plan_hash: 1, device });
    HostedLinks::new(PeerLinks::new([(peer, line)]), vec![(peer, socket)], Duration::from_secs(20))
}

fn now_us() -> u64 {
    use std::sync::OnceLock;
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    BEGIN.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// A device with its control stream, in a thread of its own.
fn serve(leads: bool, socket: TcpStream, control: TcpStream) {
    std::thread::spawn(move || {
        let (device, peer, family) = if leads { (0, 1, &LEADER) } else { (1, 0, &FOLLOWER) };
        let mut control = FramedStream::new(StdStream(control), Identity { plan_hash: 1, device });
        let room = vec![0; usize::from(leads)];
        let mut echo = Echo { leads, route: 0, input: room.clone(), buffer: room };
        let mut links = links(device, peer, socket);
        serve_family(&mut echo, (usize::from(device), family), &mut links, &mut control, now_us, &mut ())
    });
}

#[test]
fn a_slow_link_changes_the_route_and_a_fast_one_changes_it_back() {
    let rate = Arc::new(AtomicU64::new(50_000_000));
    let ((leader, a), (b, follower)) = (pair(), pair());
    throttled(&rate, &a, &b);
    let ((ours, theirs), (_follower_ours, follower_theirs)) = (pair(), pair());
    serve(false, follower, follower_theirs);
    serve(true, leader, theirs);
    let mut control = FramedStream::new(StdStream(ours), Identity { plan_hash: 1, device: u8::MAX });
    let mut number = 0u32;
    let mut infer = || -> u8 {
        let input = [number as u8];
        control.send(Kind::Input, number, 0, &input).expect("the device is there");
        let mut route = u8::MAX;
        for _ in 0..2 {
            let header = control.receive_header().expect("the device is there");
            let mut payload = vec![0; header.length as usize];
            control.receive_payload(&header, &mut payload).expect("it is whole");
            assert_eq!(header.inference, number);
            if header.kind == Kind::Output {
                assert_eq!(payload, input, "the answer to another input");
                route = header.route;
            }
        }
        number += 1;
        route
    };
    for _ in 0..5 {
        assert_eq!(infer(), 0);
    }
    rate.store(200_000, Ordering::Relaxed);
    // The first inference meets the slow link; its successors know.
    let slow: Vec<u8> = (0..4).map(|_| infer()).collect();
    assert_eq!(slow[1..], [1, 1, 1], "routes {slow:?}");
    rate.store(50_000_000, Ordering::Relaxed);
    let begin = Instant::now();
    while infer() != 0 {
        assert!(begin.elapsed() < Duration::from_secs(10), "it never went back");
        std::thread::sleep(Duration::from_millis(20));
    }
    // And it stays. A busy machine may hold up a frame as a slow link would; then it has to go back once more.
    let mut in_a_row = 1;
    while in_a_row < 6 {
        in_a_row = if infer() == 0 { in_a_row + 1 } else { 0 };
        assert!(begin.elapsed() < Duration::from_secs(30), "it did not go back for good");
        std::thread::sleep(Duration::from_millis(20));
    }
}
