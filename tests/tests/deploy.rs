//! A cluster on its machines: installed by one command over ssh, used from Python, killed device by device, updated, brought
//! back, removed; what is in the way is named before anything is switched; files in `deploy/` are what they claim to be.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use partita_rt::hosted::client::Client;
use partita_rt::node::Outcome;
use partita_tests::arrays;
use partita_tests::backend::python;
use partita_tests::bundle::{ClusterText, TOLERANCE, read_report};
use partita_tests::command::{compile, compile_binary, succeed};
use partita_tests::machines::{Kind, Machines};
use partita_tests::place;
use partita_tests::reference::right_answers;
use serde_json::Value;

/// Names of the three devices: the input is on the first, the output on the last.
const DEVICES: [&str; 3] = ["a", "b", "c"];

/// A process that ends with the test.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Slow devices in a row, so that all of them take part; each at the address of a machine.
fn cluster(addresses: &[String]) -> ClusterText {
    let device = |text: ClusterText, (name, address): (&&str, &String)| {
        text.device(name, "host", &format!("cpu = 0.01\nuser = \"pi\"\naddress = \"{address}\""))
    };
    let cluster = DEVICES.iter().zip(addresses).fold(ClusterText::new("a", "c"), device);
    cluster.link("a", "b", "tcp", "1 Gbit/s").link("b", "c", "udp", "1 Gbit/s")
}

/// Where devices listen, on port 7100 of each machine.
fn places(machines: &Machines) -> Vec<String> {
    machines.addresses.iter().map(|address| format!("{address}:7100")).collect()
}

/// `compile` in the network of who installs.
fn compile_for(machines: &Machines, cluster: &Path, words: &[&str]) -> Command {
    let mut command = machines.inside(None, compile_binary());
    command.current_dir(place::repository()).arg(place::repository().join("examples/digits/model.onnx"));
    command.arg("--targets").arg(cluster).args(["--link-error", "exact"]).args(words);
    command
}

/// Runs a command that has to fail; its exit status and what it says.
fn failure(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), said)
}

/// Everything in the home folder of the user of a machine, and what runs there of ours.
fn left(machines: &Machines, machine: usize) -> String {
    let line = "find . | sort; for exe in /proc/[0-9]*/exe; do readlink $exe | grep partita; done; true";
    String::from_utf8_lossy(&succeed(&mut machines.shell(machine, line)).stdout).into_owned()
}

/// A socket here that leads to that of a device, by ssh.
fn forward(machines: &Machines, machine: usize) -> (Helper, PathBuf) {
    let device = DEVICES[machine];
    let socket = machines.folder.path().join(format!("{device}.sock"));
    let mut ssh = machines.inside(None, "ssh");
    let there = format!("/run/pi/.local/share/partita/test/{device}/run/socket");
    ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-L"]).arg(format!("{}:{there}", socket.display()));
    let process = Helper(ssh.arg(&machines.addresses[machine]).stdin(Stdio::null()).spawn().expect("ssh starts"));
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(10), "ssh does not forward");
        std::thread::sleep(Duration::from_millis(20));
    }
    (process, socket)
}

/// Clients' view of the running cluster: the example's input, and its answer as the reference says it.
struct Use {
    plan_hash: u64,
    sockets: [PathBuf; 2],
    input: Vec<u8>,
    expected: Vec<f32>,
    /// What became of inputs so far: answered, late or failed, lost with a device.
    counts: [usize; 3],
}

impl Use {
    fn new(out: &Path, sockets: [PathBuf; 2]) -> Use {
        let report = read_report(out);
        let hash = report["plan"]["hash"].as_str().expect("it names the plan");
        let reference = arrays::read_f32(&place::repository().join("examples/digits/reference.npz"));
        Use {
            plan_hash: u64::from_str_radix(hash, 16).expect("a number"),
            sockets,
            input: reference["image"].elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
            expected: reference["probabilities"].elements.clone(),
            counts: [0; 3],
        }
    }

    /// A connection, as soon as the devices with input and output are there.
    fn connect(&self) -> Client {
        let begun = Instant::now();
        loop {
            match Client::connect(self.plan_hash, &self.sockets[0], Some(&self.sockets[1])) {
                Ok(mut client) => {
                    client.set_budget(Duration::from_secs(2)).expect("it is told");
                    return client;
                }
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "nobody is there: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Infers until so many inputs in a row were answered, each exactly; behind the first five, `meanwhile` runs to its end.
    fn until_answered(&mut self, wanted: usize, mut meanwhile: Option<Command>) {
        let begun = Instant::now();
        let mut client = self.connect();
        let (mut in_a_row, mut under_way_here) = (0, 0);
        let mut under_way: Option<Helper> = None;
        while in_a_row < wanted || meanwhile.is_some() {
            if in_a_row == 5
                && let Some(mut command) = meanwhile.take()
            {
                under_way = Some(Helper(command.spawn().expect("ssh starts")));
            }
            if under_way.as_mut().is_some_and(|helper| matches!(helper.0.try_wait(), Ok(None))) {
                in_a_row = 0;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "no answers: {:?}", self.counts);
            // There is always another, so devices are killed while they are used.
            while under_way_here < 2 {
                match client.submit(&self.input) {
                    Ok(()) => under_way_here += 1,
                    // It stays away for longer than inputs wait: nobody says any more what became of the other.
                    Err(_) => {
                        (self.counts[2], in_a_row) = (self.counts[2] + under_way_here, 0);
                        (client, under_way_here) = (self.connect(), 0);
                    }
                }
            }
            let mut output = vec![0; 4 * self.expected.len()];
            (in_a_row, under_way_here) = (in_a_row + 1, under_way_here - 1);
            match client.next(&mut output) {
                Ok(record) if record.outcome == Outcome::Full => {
                    let found = output.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                    let worst = found.zip(&self.expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
                    assert!(worst <= TOLERANCE, "{worst} off");
                    self.counts[0] += 1;
                }
                Ok(_) => (self.counts[1], in_a_row) = (self.counts[1] + 1, 0),
                Err(_) => (self.counts[2], in_a_row) = (self.counts[2] + 1, 0),
            }
        }
    }
}

/// What `--status` says, device by device.
fn status(machines: &Machines, cluster: &Path, out: &Path) -> Vec<Value> {
    let out = out.to_string_lossy();
    let output = succeed(&mut compile_for(machines, cluster, &["--status", "--format", "json", "--out", &out]));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

#[test]
fn a_cluster_is_installed_used_killed_updated_and_removed() {
    let Some(machines) = Machines::start(&[Kind::Plain("64m"); 3]) else { return };
    let before: Vec<String> = (0..3).map(|machine| left(&machines, machine)).collect();
    let folder = machines.folder.path();
    let out = folder.join("out");
    let out_word = out.to_string_lossy().into_owned();
    let addresses = places(&machines);
    let path = cluster(&addresses).write(folder);
    let words = ["--strategy", "pipeline", "--out", &out_word, "--deploy"];
    let said = succeed(&mut compile_for(&machines, &path, &words));
    println!("{}{}", String::from_utf8_lossy(&said.stderr), String::from_utf8_lossy(&said.stdout));
    let states = status(&machines, &path, &out);
    let version = |states: &[Value], device: usize| states[device]["version"].as_str().unwrap_or("none").to_string();
    let first: Vec<String> = (0..3).map(|device| version(&states, device)).collect();
    for state in &states {
        assert_eq!((&state["state"], &state["restarts"]), (&Value::from("running"), &Value::from(0)), "{state}");
        let peers = state["peers"].as_array().expect("a list");
        assert!(!peers.is_empty() && peers.iter().all(|peer| peer[1] == true), "{state}");
    }
    for (machine, device) in DEVICES.iter().enumerate() {
        let line =
            format!("cd .local/share/partita/test/{device}/current/ && stat -c %a identity.key && cat identity.key");
        let said = String::from_utf8_lossy(&succeed(&mut machines.shell(machine, &line)).stdout).into_owned();
        let key = std::fs::read_to_string(out.join(format!("identity/{device}.key"))).expect("it was made");
        assert!(said == format!("600\n{key}"), "{device} has its own key, and nobody else reads it");
        let keys = machines.shell(machine, "find . -name '*.key' | wc -l").output().expect("it starts");
        assert_eq!(String::from_utf8_lossy(&keys.stdout).trim(), "1", "of {device}");
    }

    // From Python, through sockets that ssh forwards.
    let (_first, input_socket) = forward(&machines, 0);
    let (_last, output_socket) = forward(&machines, 2);
    let has_numpy = Command::new(python()).args(["-c", "import numpy"]).output();
    if has_numpy.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new(python());
        command.current_dir(place::repository().join("examples/python")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg("classify.py").arg(out.join("report.json")).args([&input_socket, &output_socket]);
        let said = succeed(command.arg(place::repository().join("examples/digits/test.npz")));
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        println!("{said}");
        let right = right_answers(&place::repository().join("examples/digits"));
        assert!(said.starts_with(&format!("{right} of 200 right (200 full)")), "{said}, expected {right}");
    } else {
        println!("left out: no Python with numpy (`tests/setup` installs it)");
    }

    // Each program is killed; its supervisor starts it again, and answers are exact afterwards.
    let mut used = Use::new(&out, [input_socket, output_socket]);
    used.until_answered(20, None);
    for (machine, device) in DEVICES.iter().enumerate() {
        let kill = "for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in */partita/*/program) \
                    pid=${exe#/proc/}; kill -9 ${pid%/exe};; esac; done; true";
        used.until_answered(50, Some(machines.shell(machine, kill)));
        println!("{device} killed: answered, late or failed, lost with a device: {:?}", used.counts);
    }
    let states = status(&machines, &path, &out);
    assert!(states.iter().all(|state| state["restarts"] == 1 && state["state"] == "running"), "{states:?}");
    // Few or none are lost: two are under way at a time, and most of the time both have been answered already.
    assert!(used.counts[0] >= 170 && used.counts[2] <= 6, "{:?}", used.counts);
    assert!(states.iter().all(|state| state["fault"].as_str().is_some_and(|text| text.contains("137"))), "{states:?}");

    // A plan that cannot answer, since a port is taken: the old one goes on.
    let taken = "import socket, time; s = socket.create_server(('', 7200)); time.sleep(600)";
    let _taken = Helper(machines.inside(Some(0), "python3").args(["-c", taken]).spawn().expect("python starts"));
    let broken = folder.join("broken");
    std::fs::create_dir(&broken).expect("the folder is ours");
    let broken = cluster(&[format!("{}:7200", machines.addresses[0]), addresses[1].clone(), addresses[2].clone()]);
    let other = folder.join("other");
    std::fs::create_dir(&other).expect("the folder is ours");
    let broken = broken.write(&other);
    let out_of_broken = other.join("out").to_string_lossy().into_owned();
    let words = ["--strategy", "pipeline", "--out", &out_of_broken, "--deploy"];
    let (code, said) = failure(&mut compile_for(&machines, &broken, &words));
    assert_eq!(code, Some(1));
    for part in ["E0701", "does not answer", "run their old versions again", "Address already in use", "away"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    used.until_answered(20, None);
    let states = status(&machines, &path, &out);
    assert_eq!((0..3).map(|device| version(&states, device)).collect::<Vec<_>>(), first);

    // The same over itself changes nothing, and another plan replaces it.
    succeed(&mut compile_for(&machines, &path, &["--strategy", "pipeline", "--out", &out_word, "--deploy", "--quiet"]));
    used.until_answered(6, None);
    let words = ["--strategy", "pipeline", "--weights", "f16", "--out", &out_word, "--deploy", "--quiet"];
    succeed(&mut compile_for(&machines, &path, &words));
    let states = status(&machines, &path, &out);
    assert!((0..3).all(|device| version(&states, device) != first[device]), "{states:?}");

    succeed(&mut compile_for(&machines, &path, &["--undeploy"]));
    for (machine, before) in before.iter().enumerate() {
        assert_eq!(&left(&machines, machine), before, "machine {machine}");
    }
    let (code, said) = failure(&mut compile_for(&machines, &path, &["--status", "--out", &out_word]));
    assert!(code == Some(1) && said.contains("E0702") && said.contains("nothing is installed"), "{said}");
    let output = succeed(&mut compile_for(&machines, &path, &["--undeploy"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("nothing was installed"));
}

/// What root finds of ours on a machine with systemd.
fn left_of_root(machines: &Machines) -> String {
    let line = "find /opt /etc/systemd/system | sort; getent group partita; ls /run | grep partita; ls /run/service | grep enabled; true";
    let mut command = machines.inside(None, "ssh");
    let output = succeed(command.args(["-o", "BatchMode=yes", "-l", "root", &machines.addresses[0], line]));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn with_systemd_a_device_is_a_unit() {
    let Some(machines) = Machines::start(&[Kind::Systemd]) else { return };
    let before = left_of_root(&machines);
    let folder = machines.folder.path();
    let lines = format!("user = \"root\"\naddress = \"{}:7100\"", machines.addresses[0]);
    let path = ClusterText::new("one", "one").device("one", "host", &lines).write(folder);
    let out = folder.join("out");
    let words = ["--quiet", "--out", &out.to_string_lossy(), "--deploy"];
    succeed(&mut compile_for(&machines, &path, &words));
    let states = status(&machines, &path, &out);
    assert_eq!((&states[0]["state"], &states[0]["supervisor"]), (&Value::from("running"), &Value::from("systemd")));
    let root = |line: &str| {
        let mut command = machines.inside(None, "ssh");
        let output = succeed(command.args(["-o", "BatchMode=yes", "-l", "root", &machines.addresses[0], line]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said =
        root("cd /run/partita-test-one && stat -c '%G %a' . socket && ls /etc/systemd/system /opt/partita/test/one");
    assert_eq!(said.lines().take(2).collect::<Vec<_>>(), ["partita 750", "partita 770"], "{said}");
    assert!(said.contains("partita-test-one.service") && said.contains("current"), "{said}");
    // Another plan beside it, under the same unit.
    succeed(&mut compile_for(&machines, &path, &[&words[..], &["--weights", "f16"]].concat()));
    let after = status(&machines, &path, &out);
    assert!(after[0]["state"] == "running" && after[0]["version"] != states[0]["version"], "{after:?}");
    assert_eq!(root("ls /opt/partita/test/one/versions").lines().count(), 2, "the last one is kept");
    succeed(&mut compile_for(&machines, &path, &["--undeploy"]));
    assert_eq!(left_of_root(&machines), before);
}

#[test]
fn what_is_in_the_way_is_named_before_anything_is_switched() {
    let Some(machines) = Machines::start(&[Kind::Plain("64m"), Kind::Plain("4m")]) else { return };
    let folder = machines.folder.path();
    let out = folder.join("out").to_string_lossy().into_owned();
    let before: Vec<String> = (0..2).map(|machine| left(&machines, machine)).collect();
    let deploy = |target: &str, lines: &str| {
        let path = ClusterText::new("one", "one").device("one", target, lines).write(folder);
        failure(&mut compile_for(&machines, &path, &["--out", &out, "--deploy"]))
    };
    let at = |machine: usize| format!("address = \"{}:7100\"", machines.addresses[machine]);
    for (target, lines, parts) in [
        ("raspberry-pi-4", at(0), ["the machine is", "its program is for raspberry-pi-4"]),
        ("host", at(1), ["KiB are free there", "make room"]),
        ("host", format!("{}\nssh_port = 2", at(0)), ["Connection refused", "ssh -p 2 10.77.0.1"]),
        ("host", "address = \"10.77.0.99:7100\"".to_string(), ["ssh does not get there", "10.77.0.99"]),
        (
            "host",
            format!("{}\nuser = \"nobody-here\"", at(0)),
            ["Permission denied", "ssh-copy-id nobody-here@10.77.0.1"],
        ),
        ("host", String::new(), ["device `one` has no address", "address = "]),
        ("cortex-m7", String::new(), ["microcontrollers take part", "probe-rs run"]),
    ] {
        let (code, said) = deploy(target, &lines);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("E0700") && parts.iter().all(|part| said.contains(part)), "{target} {lines}: {said}");
    }
    std::fs::write(folder.join("known"), "").expect("the folder is ours");
    let (_, said) = deploy("host", &at(0));
    assert!(
        said.contains("E0700") && said.contains("host key is not known") && said.contains("ssh 10.77.0.1"),
        "{said}"
    );
    let key = std::fs::read_to_string(folder.join("host.pub")).expect("it was made");
    let known: String = machines.addresses.iter().map(|address| format!("{address} {key}")).collect();
    std::fs::write(folder.join("known"), known).expect("the folder is ours");
    for (machine, before) in before.iter().enumerate() {
        assert_eq!(&left(&machines, machine), before, "machine {machine}");
    }
}

/// A bundle of three devices with addresses, not built.
fn bundle(folder: &Path) -> PathBuf {
    let addresses = ["10.0.0.1:7100", "pi.local:7100", "[fd00::1]:7100"].map(String::from);
    let cluster = cluster(&addresses).write(folder);
    let out = folder.join("out");
    let mut command = compile();
    command.arg(place::repository().join("examples/digits/model.onnx")).arg("--targets").arg(&cluster);
    succeed(command.args(["--strategy", "pipeline", "--out"]).arg(&out));
    out
}

#[test]
fn units_are_sound_and_hardened() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let deploy = bundle(folder.path()).join("deploy");
    let unit = |device: &str| deploy.join(format!("partita-test-{device}.service"));
    let text = |device: &str| std::fs::read_to_string(unit(device)).expect("it was written");
    assert!(text("a").contains("--listen 10.0.0.1:7100") && text("b").contains("--listen [::]:7100"));
    assert!(text("b").contains("--peer a=10.0.0.1:7100") && text("c").contains("--peer b=pi.local:7100"));
    // Datagrams go both ways.
    assert!(text("b").contains("--peer c=[fd00::1]:7100") && text("c").contains("--listen [fd00::1]:7100"));
    for device in DEVICES {
        let credential = format!("LoadCredential=identity:/opt/partita/test/{device}/current/identity.key");
        assert!(text(device).lines().any(|line| line == credential), "{device} reads its key");
        for line in ["Type=notify", "WatchdogSec=15s", "NoNewPrivileges=yes", "Group=partita", "StandardInput=null"] {
            assert!(text(device).lines().any(|other| other == line), "{device}: {line}");
        }
    }
    let mut analyze = Command::new("systemd-analyze");
    let Ok(output) = analyze.args(["security", "--offline=yes", "--no-pager"]).arg(unit("a")).output() else {
        println!("left out: there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
    println!("{overall}");
    let figure: f64 =
        overall.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("no figure: {said}"));
    assert!(figure <= 2.0, "{said}");
    // What it verifies has to be there: the program at its place is another one here.
    for device in DEVICES {
        let here = folder.path().join(format!("partita-test-{device}.service"));
        let of_unit = format!("/opt/partita/test/{device}/current/program");
        assert!(text(device).contains(&of_unit));
        std::fs::write(&here, text(device).replace(&of_unit, "/bin/true")).expect("the folder is ours");
        let output =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("partita-test"), "{said}");
    }
}

/// The command line of a unit, started as systemd would: no standard input, its folder, its notifications.
#[test]
fn a_unit_s_process_says_that_it_is_ready_and_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = ClusterText::single("host").write(folder.path());
    let out = folder.path().join("out");
    let mut command = compile();
    command.arg(place::repository().join("examples/digits/model.onnx")).arg("--targets").arg(&cluster);
    succeed(command.args(["--build", "--out"]).arg(&out));
    let unit = std::fs::read_to_string(out.join("deploy/partita-test-one.service")).expect("it was written");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("/opt/partita/test/one/current/program"));
    let [run, notify] = ["run", "notify"].map(|name| folder.path().join(name));
    std::fs::create_dir(&run).expect("the folder is ours");
    let heard = UnixDatagram::bind(&notify).expect("the folder is ours");
    heard.set_read_timeout(Some(Duration::from_secs(5))).expect("it is a socket");
    let hear = || {
        let mut bytes = [0; 64];
        let count = heard.recv(&mut bytes).expect("it says something in time");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut service = Command::new(out.join("bin/one"));
    service.args(words).env("RUNTIME_DIRECTORY", &run).env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "300000");
    let _service = Helper(service.stdin(Stdio::null()).spawn().expect("it starts"));
    assert_eq!(hear(), "READY=1");
    let begun = Instant::now();
    (0..3).for_each(|_| assert_eq!(hear(), "WATCHDOG=1"));
    assert!(begun.elapsed() < Duration::from_millis(900), "it says so too rarely: {:?}", begun.elapsed());
    // Who asks is the same program, as in health checks of containers.
    let ask = |socket: &Path| {
        let mut command = Command::new(out.join("bin/one"));
        command.arg("--status").arg("--socket").arg(socket).output().expect("it starts")
    };
    let answer = ask(&run.join("socket"));
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    let hash = read_report(&out)["plan"]["hash"].as_str().expect("it names the plan").to_string();
    assert!(answer.status.success() && said.contains(&format!("partita_plan_info{{plan=\"{hash}\"")), "{said}");
    assert_eq!(ask(&run.join("nothing")).status.code(), Some(1));
}

#[test]
fn other_deployment_files_are_what_their_readers_take() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let deploy = bundle(folder.path()).join("deploy");
    for device in DEVICES {
        succeed(Command::new("sh").arg("-n").arg(deploy.join(format!("partita-test-{device}.sh"))));
    }
    succeed(Command::new("sh").arg("-n").arg(place::repository().join("compiler/src/deploy/on_device.sh")));
    let facts = "\
import sys, yaml
deploy = sys.argv[1]
site, = yaml.safe_load(open(deploy + '/site.yml'))
compose = yaml.safe_load(open(deploy + '/compose.yml'))
pods = [pod for pod in yaml.safe_load_all(open(deploy + '/k3s.yml')) if pod]
assert site['hosts'] == 'partita_test' and len(site['tasks']) == 9
assert list(compose['services']) == ['a', 'b', 'c'], compose
assert compose['services']['b']['command'][:4] == ['--listen', '0.0.0.0:7100', '--peer', 'a=a:7100'], compose
assert [pod['metadata']['name'] for pod in pods] == ['a', 'b', 'c']
container = pods[2]['spec']['template']['spec']['containers'][0]
assert container['args'][:4] == ['--listen', '[fd00::1]:7100', '--peer', 'b=pi.local:7100'], container
assert container['livenessProbe'] == container['startupProbe']
";
    let has_yaml = Command::new("python3").args(["-c", "import yaml"]).output();
    if has_yaml.is_ok_and(|output| output.status.success()) {
        succeed(Command::new("python3").args(["-c", facts]).arg(&deploy));
    } else {
        println!("left out: no Python that reads YAML");
    }
    let inventory = std::fs::read_to_string(deploy.join("inventory.ini")).expect("it was written");
    assert!(
        inventory.contains("a ansible_host=10.0.0.1 ansible_user=pi partita_service=partita-test-a"),
        "{inventory}"
    );
    let mut ansible = Command::new("ansible-playbook");
    ansible.args(["--syntax-check", "-i"]).arg(deploy.join("inventory.ini")).arg(deploy.join("site.yml"));
    match ansible.output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => println!("left out: there is no ansible-playbook"),
    }
}
