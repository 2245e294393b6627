//! Emitted processes as an engineer runs them: started in any order, talked to over their sockets, killed and started again,
//! told to stop.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use partita_rt::frame::{Header, Kind, WANTS_ANSWERS};
use partita_rt::node::{Outcome, Record};
use partita_rt::{FramedStream, Identity, StdStream};
use partita_tests::arrays;
use partita_tests::bundle::{ClusterText, TOLERANCE};
use partita_tests::command::{compile, succeed};
use partita_tests::device::{self, Device, free_place};
use partita_tests::place;

/// Two devices that share the digit reader, built.
struct Cluster {
    folder: tempfile::TempDir,
    plan_hash: u64,
    place: String,
}

impl Cluster {
    fn new() -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = ClusterText::new("a", "b").device("a", "host", "cpu = 0.01").device("b", "host", "cpu = 0.01");
        let text = text.link("a", "b", "tcp", "1 Gbit/s").write(folder.path());
        let out = folder.path().join("out");
        let mut command = compile();
        command.arg(place::repository().join("examples/digits/model.onnx")).arg("--targets").arg(&text);
        succeed(command.arg("--out").arg(&out).args(["--build", "--strategy", "pipeline", "--link-error", "exact"]));
        let model = std::fs::read_to_string(out.join("devices/a/src/model.rs")).expect("it was written");
        let hash = model.split("PLAN_HASH: u64 = 0x").nth(1).and_then(|rest| rest.get(..16)).expect("it says its plan");
        let plan_hash = u64::from_str_radix(hash, 16).expect("a number");
        Cluster { folder, plan_hash, place: free_place() }
    }

    /// Starts a device as a service would be: no standard input.
    fn start(&self, name: &str) -> Device {
        let peer = format!("a={}", self.place);
        let place = if name == "a" { ["--listen", &self.place] } else { ["--peer", &peer] };
        device::start(&self.folder.path().join("out"), name, &[&["--deadline-ms", "1000"][..], &place].concat())
    }

    fn client(&self, device: &Device) -> Client {
        let give_up = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&device.socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < give_up, "nobody listens: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has this option");
        let identity = Identity { plan_hash: self.plan_hash, device: u8::MAX };
        let mut client = Client { stream: FramedStream::new(StdStream(stream), identity), number: 0 };
        client.until(|header, _| (header.kind == Kind::Hello).then_some(()));
        client
    }
}

/// A program that talks to a device.
struct Client {
    stream: FramedStream<StdStream<UnixStream>>,
    number: u32,
}

impl Client {
    fn say(&mut self, kind: Kind, message: u16, payload: &[u8]) {
        self.number += 1;
        self.stream.send(kind, self.number, message, payload).expect("the device listens");
    }

    /// Reads frames until one is what is waited for.
    fn until<T>(&mut self, wanted: impl Fn(&Header, &[u8]) -> Option<T>) -> T {
        loop {
            let header = self.stream.receive_header().expect("the device is there");
            let mut payload = vec![0; header.length as usize];
            self.stream.receive_payload(&header, &mut payload).expect("it is whole");
            if let Some(found) = wanted(&header, &payload) {
                return found;
            }
        }
    }

    fn record(&mut self) -> Record {
        let number = self.number;
        self.until(|header, payload| {
            let ours = header.kind == Kind::Record && header.inference == number;
            ours.then(|| Record::parse(number.into(), payload).expect("it can be read"))
        })
    }

    fn answer(&mut self, input: u32) -> Vec<f32> {
        self.until(|header, payload| {
            let ours = header.kind == Kind::Output && header.inference == input;
            ours.then(|| payload.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        })
    }

    fn status(&mut self) -> String {
        self.say(Kind::Status, 0, &[]);
        let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).expect("it is text");
        self.until(|header, payload| (header.kind == Kind::Status).then(|| text(payload)))
    }
}

fn reference(path: &Path) -> (Vec<u8>, Vec<f64>) {
    let arrays = arrays::read_f32(path);
    let image = &arrays["image"].elements;
    let image = image.iter().flat_map(|element| element.to_le_bytes()).collect();
    (image, arrays["probabilities"].elements.iter().map(|element| f64::from(*element)).collect())
}

#[test]
fn devices_serve_programs_of_their_machine_and_come_back() {
    let cluster = Cluster::new();
    let (input, expected) = reference(&place::repository().join("examples/digits/reference.npz"));
    // The one that connects is there first.
    let second = cluster.start("b");
    let mut listener = cluster.client(&second);
    listener.say(Kind::Subscribe, WANTS_ANSWERS, &[]);
    listener.status();
    let mut first = cluster.start("a");
    let mut client = cluster.client(&first);
    let ask = |client: &mut Client, listener: &mut Client| {
        client.say(Kind::Input, 0, &input);
        let record = client.record();
        assert_eq!(record.outcome, Outcome::Full, "{record:?}");
        let answer = listener.answer(record.input);
        let largest = expected.iter().fold(0.0f64, |largest, element| largest.max(element.abs()));
        let worst = answer.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs() / largest).fold(0.0, f64::max);
        assert!(answer.len() == expected.len() && worst <= TOLERANCE, "{answer:?} is {worst} off");
    };
    (0..20).for_each(|_| ask(&mut client, &mut listener));

    // Programs that talk nonsense are let go; others notice nothing.
    let mut stranger = cluster.client(&first);
    // It may be let go at the header already.
    let _ = stranger.stream.send(Kind::Input, 1, 0, &input[1..]);
    assert!(stranger.stream.receive_header().is_err(), "an input of another length is none");
    drop(UnixStream::connect(&first.socket).expect("it listens"));
    ask(&mut client, &mut listener);

    // An input that is given while a device is gone is answered when it is back.
    drop(second);
    client.say(Kind::Input, 0, &input);
    let second = cluster.start("b");
    let mut listener = cluster.client(&second);
    listener.say(Kind::Subscribe, WANTS_ANSWERS, &[]);
    // Answered, it has heard of the subscription.
    listener.status();
    assert_eq!(client.record().outcome, Outcome::Full);
    (0..5).for_each(|_| ask(&mut client, &mut listener));
    let status = client.status();
    assert!(status.contains("partita_records_total{outcome=\"full\"} 27\n"), "{status}");

    // What cannot be answered in time is said to be late, or not to have a way; in time.
    drop(second);
    client.say(Kind::Budget, 0, &300_000u64.to_le_bytes());
    let begin = Instant::now();
    client.say(Kind::Input, 0, &input);
    let record = client.record();
    assert!(matches!(record.outcome, Outcome::Late | Outcome::Failed(_)), "{record:?}");
    assert!((Duration::from_millis(300)..Duration::from_secs(20)).contains(&begin.elapsed()), "{:?}", begin.elapsed());

    // It ends when it is told to, and says that all is well.
    client.say(Kind::Stop, 0, &[]);
    assert_eq!(first.process.wait().expect("it ends").code(), Some(0));
}

/// What a program says that does not start.
fn complaint(cluster: &Cluster, program: &str, words: &[&str]) -> String {
    let mut command = Command::new(cluster.folder.path().join("out/bin").join(program));
    let output = command.args(words).stdin(Stdio::null()).output().expect("it starts");
    assert!(!output.status.success(), "it starts with {words:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_device_is_known_by_its_key() {
    let cluster = Cluster::new();
    let own = cluster.folder.path().join("own.key");
    let own_word = own.to_string_lossy().into_owned();
    let program = cluster.folder.path().join("out/bin/a");
    let made = succeed(Command::new(&program).args(["keygen", "--identity", &own_word]));
    let public = String::from_utf8_lossy(&made.stdout).trim().to_string();
    assert!(public.len() == 64 && public.bytes().all(|digit| digit.is_ascii_hexdigit()), "{public}");
    assert_eq!(std::fs::metadata(&own).expect("it was made").permissions().mode() & 0o777, 0o600);
    let said = complaint(&cluster, "a", &["keygen", "--identity", &own_word]);
    assert!(said.contains("never written over"), "{said}");
    // A key that nobody knows it by, and one that others can read.
    let words = ["--listen", &cluster.place, "--identity", &own_word];
    let said = complaint(&cluster, "a", &words);
    assert!(said.contains("is not the key that peers know this device by") && said.contains(&public), "{said}");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    let said = complaint(&cluster, "a", &words);
    assert!(said.contains("others can read this private key") && said.contains("chmod 600"), "{said}");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    // Known by the new one it talks to its peer; with the old list the peer does not.
    let identity = cluster.folder.path().join("out/identity");
    let trusted = std::fs::read_to_string(identity.join("trusted")).expect("it was written");
    let old = trusted.lines().find_map(|line| line.strip_prefix("a ")).expect("it names a");
    let new = cluster.folder.path().join("trusted");
    std::fs::write(&new, trusted.replace(old, &public)).expect("the folder is ours");
    let new_word = new.to_string_lossy().into_owned();
    let out = cluster.folder.path().join("out");
    let peer = format!("a={}", cluster.place);
    let first = device::start(&out, "a", &[&words[..], &["--trusted", &new_word]].concat());
    let second = device::start(&out, "b", &["--peer", &peer]);
    let status = || cluster.client(&first).status();
    let begun = Instant::now();
    while status().contains("partita_greetings_without_key_total 0\n") {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody greets");
    }
    assert!(status().contains("partita_link_up{link=\"0\",peer=\"b\"} 0"));
    drop(second);
    let second = device::start(&out, "b", &["--peer", &peer, "--trusted", &new_word]);
    while !status().contains("partita_link_up{link=\"0\",peer=\"b\"} 1") {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", status());
    }
    drop(second);
}
