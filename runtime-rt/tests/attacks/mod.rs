//! What outsiders try, over real sockets: they know the format, the plan and the public keys, and have recorded everything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use partita_rt::hosted::driver::{Keys, Running};
use partita_rt::node::Plan;
use partita_rt::noise::{Entropy, Pair, Private};

use crate::pipeline::{BYTES, ask, cluster, device, device_as, keys, plan, ports, private};

/// Bytes of a greeting on a link with keys: header, payload, check.
const GREETING: usize = 40 + 80 + 4;

const PATIENCE: Duration = Duration::from_secs(20);

/// CRC-32 of IEEE 802.3.
fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let step = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    };
    (!parts.iter().flat_map(|part| part.iter()).fold(u32::MAX, |crc, byte| step(crc, *byte))).to_le_bytes()
}

/// A frame as an outsider makes it, from device 1.
fn frame(kind: u8, session: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = [b"Pt\x02", &[kind][..], &session.to_le_bytes(), &1u32.to_le_bytes(), &[0; 10], &[1, 0]].concat();
    header.extend([&[0xff; 4][..], &[0; 2], &(payload.len() as u16).to_le_bytes(), &[0; 4]].concat());
    let check = crc(&[&header]);
    header.extend(check);
    [&header[..], payload, &crc(&[&check, payload])].concat()
}

/// What is heard after these bytes, until the connection is closed; none if it stays open for too long.
fn hears(at: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("it can be");
    let _ = stream.write_all(bytes);
    let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Some(heard),
            Ok(count) => heard.extend(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Some(heard),
            Err(_) => return None,
        }
    }
}

fn answers_go_on(devices: &[Running], answers: &std::sync::mpsc::Receiver<Vec<u8>>) {
    for seed in 0..10 {
        ask(&devices[0], answers, seed, PATIENCE);
    }
}

#[test]
fn who_knows_the_plan_and_has_no_key_hears_nothing() {
    let (ports, devices, _sends, answers) = cluster();
    ask(&devices[0], &answers, 1, PATIENCE);
    let begun = devices[0].counters().begun;
    let plan_hash = 7u64.to_le_bytes();
    let open = [&[1, 0, 0, 0][..], &plan_hash, &[9; 4], &[8; 4], &[0; 4]].concat();
    let own = Private::new([99; 32]);
    let pair = Pair::new(&own, &private(0).public(), (2, 7), (1, 0), true).expect("a key");
    let (_, message) = pair.call(5, &mut Entropy::new([3; 32])).expect("it calls");
    let keyed = [&[1, 0, 0, 0][..], &[0x55; 8], &message, &[0xaa; 16]].concat();
    let ask_for_call = [&[0, 0, 0, 0][..], &[0x55; 8], &[0; 52], &[0xaa; 16]].concat();
    for (what, bytes) in [
        ("a greeting without keys", frame(1, 0, &open)),
        ("a greeting with another key", frame(1, 0, &keyed)),
        ("an order to call", frame(1, 0, &ask_for_call)),
        ("a sign of life", frame(2, 77, &[0; 12])),
        ("a tensor", frame(7, 77, &[1; 4096])),
        ("anything", vec![0x50; 4096]),
    ] {
        assert_eq!(hears(ports[0], &bytes), Some(vec![]), "{what}");
    }
    let counters = devices[0].counters();
    assert!(counters.strangers >= 3, "{counters:?}");
    assert_eq!(counters.begun, begun, "nobody's session was touched");
    answers_go_on(&devices, &answers);
    devices.into_iter().for_each(|device| device.stop());
}

/// A wire between device 1 and device 0 that somebody listens at, and can talk on.
struct Wire {
    at: SocketAddr,
    said: Arc<Mutex<Vec<u8>>>,
    inner: Arc<Mutex<Option<TcpStream>>>,
}

fn wire(to: SocketAddr) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let at = listener.local_addr().expect("it is bound");
    let (said, inner) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
    let (records, keeps) = (Arc::clone(&said), Arc::clone(&inner));
    std::thread::spawn(move || {
        for outer in listener.incoming().flatten() {
            let Ok(onward) = TcpStream::connect(to) else { continue };
            let (mut back, mut from) = (outer.try_clone().expect("it can be"), onward.try_clone().expect("it can be"));
            *keeps.lock().expect("nobody panics") = onward.try_clone().ok();
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
            let (mut outer, mut onward, records) = (outer, onward, Arc::clone(&records));
            std::thread::spawn(move || {
                let mut piece = [0; 65536];
                while let Ok(count @ 1..) = outer.read(&mut piece) {
                    let mut said = records.lock().expect("nobody panics");
                    said.extend(&piece[..count]);
                    if onward.write_all(&piece[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Wire { at, said, inner }
}

#[test]
fn who_replays_a_session_changes_nothing() {
    let ports = ports();
    let wire = wire(ports[0]);
    let (sends, answers) = channel();
    let through = [wire.at, ports[1], ports[2]];
    let devices = vec![device(0, &ports, &sends), device(1, &through, &sends), device(2, &ports, &sends)];
    answers_go_on(&devices, &answers);
    let recorded = wire.said.lock().expect("nobody panics").clone();
    assert!(recorded.len() > GREETING);
    let begun = devices[0].counters().begun;
    // As somebody who comes anew: the greeting is answered with what is of no use to him, and only a few times.
    let mut answered = 0;
    for _ in 0..40 {
        let heard = hears(ports[0], &recorded).expect("he is sent away");
        assert!(heard.is_empty() || heard.len() == GREETING, "{} bytes were heard", heard.len());
        answered += usize::from(!heard.is_empty());
    }
    assert!((1..30).contains(&answered), "{answered} of 40 were answered");
    assert_eq!(devices[0].counters().begun, begun, "the session is the one that it was");
    answers_go_on(&devices, &answers);
    // As somebody on the wire itself: every frame is one that was there before.
    let before = devices[0].counters();
    {
        // While the lock is held nobody else talks on the wire.
        let _said = wire.said.lock().expect("nobody panics");
        let mut inner = wire.inner.lock().expect("nobody panics");
        let inner = inner.as_mut().expect("there is a connection");
        inner.write_all(&recorded[GREETING..]).expect("it takes them");
    }
    answers_go_on(&devices, &answers);
    let after = devices[0].counters();
    assert!(after.repeated > before.repeated, "{after:?}");
    assert_eq!(after.begun, before.begun);
    devices.into_iter().for_each(|device| device.stop());
}

#[test]
fn a_wrong_key_and_another_plan_are_told_apart_and_do_not_talk() {
    let ports = ports();
    let (sends, answers) = channel();
    let lead = device(0, &ports, &sends);
    let right = plan(1);
    let wrong_key = Keys { private: private(98), ..keys(&right) };
    let other_plan = Plan { hash: 8, ..right };
    for (plan, keys, differs) in [(right, wrong_key, false), (other_plan, keys(&other_plan), true)] {
        let before = lead.counters();
        let second = device_as(plan, keys, &ports, &sends);
        let begun = Instant::now();
        let counts = || {
            let now = lead.counters();
            (now.strangers - before.strangers, now.other_plans - before.other_plans)
        };
        while counts() == (0, 0) {
            assert!(begun.elapsed() < PATIENCE, "it was not heard");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (strangers, other_plans) = counts();
        assert_eq!((strangers > 0, other_plans > 0), (!differs, differs));
        assert!(!lead.is_talking(0) && !second.is_talking(0));
        assert_eq!(lead.is_of_another_plan(0), differs);
        second.stop();
    }
    let devices = [lead, device(1, &ports, &sends), device(2, &ports, &sends)];
    answers_go_on(&devices, &answers);
    devices.into_iter().for_each(|device| device.stop());
}

/// A thousand connections, of which some drip: devices that are connected go on, and one that comes back finds its way.
#[test]
fn strangers_delay_nobody() {
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let more = rustix::process::Rlimit { current: soft.maximum, ..soft };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, more).expect("it is allowed");
    let (ports, mut devices, sends, answers) = cluster();
    ask(&devices[0], &answers, 1, PATIENCE);
    let mut strangers = Vec::new();
    for at in 0..1000 {
        let mut stranger = TcpStream::connect(ports[at % 2]).expect("it listens");
        match at % 3 {
            0 => drop(stranger.write_all(&[at as u8; 300])),
            1 => drop(stranger.write_all(b"Pt")),
            _ => {}
        }
        strangers.push(stranger);
    }
    let mut slowest = Duration::ZERO;
    for seed in 0..50 {
        for stranger in strangers.iter_mut().skip(seed).step_by(50) {
            let _ = stranger.write_all(&[0x50]);
        }
        slowest = slowest.max(ask(&devices[0], &answers, seed as u8, PATIENCE));
    }
    println!("{BYTES} bytes through three devices took {slowest:?} at most beside 1,000 strangers");
    devices.remove(1).stop();
    devices.insert(1, device(1, &ports, &sends));
    ask(&devices[0], &answers, 3, PATIENCE);
    drop(strangers);
    devices.into_iter().for_each(|device| device.stop());
}
