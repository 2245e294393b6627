//! Nodes on threads, over real sockets: answers, devices that go and come back, and connections of strangers.
#![cfg(feature = "std")]

mod adding;
mod attacks;
mod pipeline;

use std::iter::repeat;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use partita_rt::hosted::driver::{Place, Places, Running, Steps, Watch, start};
use partita_rt::node::random::Random;
use partita_rt::node::{Flow, INPUTS, Medium, Outcome, Plan, Route, Step};
use pipeline::{Adds, BYTES, ask, cluster, device, keys};

#[test]
fn a_pipeline_answers_and_survives_each_of_its_devices() {
    let (ports, mut devices, sends, answers) = cluster();
    let patience = Duration::from_secs(20);
    for seed in 0..50 {
        ask(&devices[0], &answers, seed, patience);
    }
    for number in [1, 2, 1] {
        devices.remove(usize::from(number)).stop();
        std::thread::sleep(Duration::from_millis(30));
        devices.insert(number.into(), device(number, &ports, &sends));
        for seed in 50..60 {
            let took = ask(&devices[0], &answers, seed, patience);
            assert!(took < Duration::from_secs(10), "after device {number} was started again: {took:?}");
        }
    }
    devices.into_iter().for_each(|device| device.stop());
}

#[test]
fn several_inputs_are_under_way_at_once_and_records_keep_their_order() {
    let (_ports, devices, _sends, answers) = cluster();
    ask(&devices[0], &answers, 1, Duration::from_secs(20));
    let mut tags = Vec::new();
    let mut records = 0;
    while records < 300 {
        let submit = |at: usize| devices[0].submit(&[at as u8; BYTES], Duration::from_secs(20));
        while tags.len() < 300 {
            let Some(tag) = submit(tags.len()) else { break };
            tags.push(tag);
        }
        let record = devices[0].next_record().expect("it runs");
        assert_eq!((record.tag, record.outcome), (tags[records], Outcome::Full));
        let answer = answers.recv_timeout(Duration::from_secs(1)).expect("it was delivered");
        assert!(answer.iter().all(|byte| *byte == (records as u8).wrapping_add(3)), "of input {records}");
        records += 1;
    }
    devices.into_iter().for_each(|device| device.stop());
}

#[test]
fn who_listens_again_is_called_at_once() {
    let (ports, (sends, _answers)) = (pipeline::ports(), channel());
    let caller = device(1, &ports, &sends);
    let mut waits = Vec::new();
    for _ in 0..10 {
        // By the second time calls are as rare as they get.
        std::thread::sleep(Duration::from_millis(350));
        let listener = TcpListener::bind(ports[0]).expect("nobody else is there");
        let begun = Instant::now();
        drop(listener.accept().expect("it calls"));
        waits.push(begun.elapsed());
    }
    caller.stop();
    waits.sort();
    println!("{waits:?}");
    // One of them may be the machine's that this runs on.
    assert!(waits[8] < Duration::from_millis(150), "{waits:?}");
}

/// Takes its time to load, as a program does that the system has stopped meanwhile.
struct LoadsSlowly(Adds, Duration);

// SAFETY: as the program inside says.
unsafe impl Steps for LoadsSlowly {
    fn memory(&self) -> (*mut u8, usize) {
        self.0.memory()
    }

    fn input_bytes(&self, route: u8) -> usize {
        self.0.input_bytes(route)
    }

    fn load(&mut self, route: u8, input: &[u8]) {
        std::thread::sleep(core::mem::take(&mut self.1));
        self.0.load(route, input);
    }

    fn step(&mut self, route: u8, step: u16) -> Flow {
        self.0.step(route, step)
    }

    fn output(&self, route: u8, exit: Option<u32>) -> &[u8] {
        self.0.output(route, exit)
    }
}

/// The plan of a device that does everything itself.
fn alone() -> Plan<'static> {
    let routes = vec![Route { steps: vec![Step::Compute].leak(), devices: 1, links: &[] }];
    Plan { output: 0, peers: &[], routes: routes.leak(), ..pipeline::plan(0) }
}

#[test]
fn records_that_nobody_takes_are_kept_and_hold_inputs_back() {
    let none = |_: u32, _: u8, _: &[u8]| {};
    let watch = Watch::default();
    let alone = start(alone(), 1, Places::default(), Box::new(Adds::new(1)), Box::new(none), watch);
    let alone = alone.expect("it needs nobody");
    let mut tags = Vec::new();
    let mut refused = Instant::now();
    while refused.elapsed() < Duration::from_millis(300) {
        if let Some(tag) = alone.submit(&[1; BYTES], Duration::from_secs(20)) {
            tags.push(tag);
            refused = Instant::now();
        }
        assert!(tags.len() < 1000, "nobody says that it takes no more");
    }
    // One who waits for room goes on as records are taken, and so does who takes them all.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| alone.submit_as(7 << 32, &[1; BYTES], None, Duration::from_secs(20)));
        for tag in tags.into_iter().chain([7 << 32]) {
            let record = alone.next_record().expect("it runs");
            assert_eq!((record.tag, record.outcome), (tag, Outcome::Full));
        }
        assert!(waits.join().expect("no panic"));
    });
    alone.stop();
}

#[test]
fn an_input_whose_time_is_up_while_it_is_loaded_does_not_take_the_place_of_another() {
    let (sends, answers) = channel();
    let deliver = move |_: u32, _: u8, bytes: &[u8]| drop(sends.send(bytes.to_vec()));
    let program = LoadsSlowly(Adds::new(5), Duration::from_millis(400));
    let alone = start(alone(), 1, Places::default(), Box::new(program), Box::new(deliver), Watch::default());
    let alone = alone.expect("it needs nobody");
    let patience = Duration::from_secs(20);
    for (at, budget) in (0..INPUTS as u8).zip([Duration::from_millis(50)].into_iter().chain(repeat(patience))) {
        alone.submit(&[at; BYTES], budget).expect("there is room");
    }
    let record = alone.next_record().expect("it runs");
    assert_eq!(record.outcome, Outcome::Late);
    // Its place is free, and it is still being loaded.
    alone.submit(&[100; BYTES], patience).expect("there is room");
    for expected in (1..INPUTS as u8).chain([100]) {
        let record = alone.next_record().expect("it runs");
        assert_eq!(record.outcome, Outcome::Full, "{record:?}");
        let answer = answers.recv_timeout(Duration::from_secs(1)).expect("it was delivered");
        assert_eq!(answer, [expected + 5; BYTES], "of input {expected}");
    }
    alone.stop();
}

/// Passes datagrams on between two sockets, of which one in ten is lost and some come twice.
fn bad_air(sockets: [UdpSocket; 2], ends: [SocketAddr; 2], stop: Arc<AtomicBool>) {
    let mut bytes = [0u8; 2048];
    let mut random = Random::new(3);
    while !stop.load(Ordering::Relaxed) {
        for at in 0..2 {
            while let Ok(count) = sockets[at].recv(&mut bytes) {
                let copies = match random.below(20) {
                    0 | 1 => 0,
                    2 => 2,
                    _ => 1,
                };
                for _ in 0..copies {
                    let _ = sockets[1 - at].send_to(&bytes[..count], ends[1 - at]);
                }
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn datagrams_that_are_lost_are_sent_again() {
    let socket = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        socket.set_nonblocking(true).expect("it can be");
        socket
    };
    let (stop, (sends, answers)) = (Arc::new(AtomicBool::new(false)), channel());
    let mut places: Vec<Vec<Place>> = vec![Vec::new(), Vec::new(), Vec::new()];
    let mut threads = Vec::new();
    for (low, high) in [(0, 1), (1, 2)] {
        let ends = [socket(), socket()].map(|socket| socket.local_addr().expect("it is bound"));
        let middle = [socket(), socket()];
        let remote = |at: usize| middle[at].local_addr().expect("it is bound");
        places[low].push(Place::Datagrams { local: ends[0], remote: remote(0) });
        places[high].push(Place::Datagrams { local: ends[1], remote: remote(1) });
        let stop = stop.clone();
        threads.push(std::thread::spawn(move || bad_air(middle, ends, stop)));
    }
    let devices: Vec<Running> = (0u8..)
        .zip(places)
        .map(|(number, peers)| {
            let answers = sends.clone();
            let deliver = move |_: u32, _: u8, bytes: &[u8]| drop(answers.send(bytes.to_vec()));
            let plan = adding::plan::<BYTES>(number, Medium::Datagrams, 1200);
            let places = Places { keys: Some(keys(&plan)), listen: None, peers };
            start(plan, number.into(), places, Box::new(Adds::new(number)), Box::new(deliver), Watch::default())
                .expect("ports are free")
        })
        .collect();
    for seed in 0..30 {
        ask(&devices[0], &answers, seed, Duration::from_secs(20));
    }
    devices.into_iter().for_each(|device| device.stop());
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn lines_carry_frames_too() {
    let (sends, answers) = channel();
    let mut places: Vec<Vec<Place>> = vec![Vec::new(), Vec::new(), Vec::new()];
    for (low, high) in [(0, 1), (1, 2)] {
        let (one, other) = UnixStream::pair().expect("sockets can be made");
        for (device, end) in [(low, one), (high, other)] {
            end.set_nonblocking(true).expect("it can be");
            let open = move || Ok(OwnedFd::from(end.try_clone()?));
            places[device].push(Place::Line(Box::new(open)));
        }
    }
    let devices: Vec<Running> = (0u8..)
        .zip(places)
        .map(|(number, peers)| {
            let answers = sends.clone();
            let deliver = move |_: u32, _: u8, bytes: &[u8]| drop(answers.send(bytes.to_vec()));
            let plan = adding::plan::<BYTES>(number, Medium::Line, 256);
            let places = Places { peers, ..Places::default() };
            start(plan, number.into(), places, Box::new(Adds::new(number)), Box::new(deliver), Watch::default())
                .expect("it starts")
        })
        .collect();
    for seed in 0..30 {
        ask(&devices[0], &answers, seed, Duration::from_secs(20));
    }
    devices.into_iter().for_each(|device| device.stop());
}
