//! Keys of a cluster file.

use std::path::Path;

use partita::config::cluster_file;
use partita::driver::{self, Options};
use partita::{bundle, commands};
use partita_tests::place;

use super::super::small;
use super::Shown::{self, Differs, Refused, Test};
use super::{check_lines, known_keys, outcome, single, walk};

/// A cluster with a line for every key. Two boards and a camera on a switch, a sensor on a serial line.
const CLUSTER: &str = "\
[cluster]
name = \"hall\"
input = \"pi-0\"
output = \"pi-1\"

[[device]]
name = \"pi\"
target = \"raspberry-pi-3\"
count = 2
address = \"10.0.0.1:7000\"

[[device]]
name = \"hub\"
target = \"raspberry-pi-3\"

[[link]]
between = [\"pi\", \"hub\"]
transport = \"tcp\"
bandwidth = \"200 Mbit/s\"
latency = \"0.1 ms\"
";

/// Keys of cluster.toml, by table.
const CLUSTER_KEYS: &[(&str, &str, Shown)] = &[
    ("cluster", "name", Differs("name = \"hall\"", "name = \"yard\"")),
    ("cluster", "input", Differs("input = \"pi-0\"", "input = \"hub\"")),
    ("cluster", "output", Differs("output = \"pi-1\"", "output = \"pi-0\"")),
    ("cluster", "max_latency", Refused("output = \"pi-1\"", "output = \"pi-1\"\nmax_latency = \"1 us\"", "E0172")),
    ("cluster", "security", Differs("output = \"pi-1\"", "output = \"pi-1\"\nsecurity = \"none\"")),
    ("cluster", "survive", Differs("output = \"pi-1\"", "output = \"pi-1\"\nsurvive = 1")),
    ("device", "name", Refused("name = \"hub\"\ntarget", "name = \"bub\"\ntarget", "E0167")),
    ("device", "target", Differs("target = \"raspberry-pi-3\"\ncount", "target = \"raspberry-pi-4\"\ncount")),
    ("device", "count", Differs("count = 2", "count = 3")),
    ("device", "ram", Refused("count = 2", "count = 2\nram = \"16 KiB\"", "E0170")),
    ("device", "flash", Differs("count = 2", "count = 2\nflash = \"700 KiB\"")),
    ("device", "cpu", Differs("count = 2", "count = 2\ncpu = 0.5")),
    ("device", "threads", Differs("count = 2", "count = 2\nthreads = 2")),
    ("device", "standalone", Test(what_needs_variants_is_told)),
    ("device", "user", Differs("address = \"10", "user = \"pi\"\naddress = \"10")),
    ("device", "identity", Test(who_has_a_key_is_given_none)),
    ("device", "ssh_port", Differs("address = \"10", "ssh_port = 2222\naddress = \"10")),
    ("device", "address", Differs("10.0.0.1:7000", "10.0.0.1:8000")),
    ("link", "between", Refused("[\"pi\", \"hub\"]", "[\"pi-0\", \"hub\"]", "E0171")),
    ("link", "transport", Differs("transport = \"tcp\"", "transport = \"uart\"")),
    ("link", "bandwidth", Differs("200 Mbit/s", "100 Mbit/s")),
    ("link", "baud", Test(serial_lines_are_as_the_file_says)),
    ("link", "port", Test(serial_lines_are_as_the_file_says)),
    ("link", "latency", Differs("0.1 ms", "2 ms")),
    ("link", "topology", Test(who_shares_a_medium_waits_for_it)),
    ("link", "hub", Differs("latency =", "topology = \"star\"\nhub = \"hub\"\nlatency =")),
    ("link", "duplex", Test(who_shares_a_medium_waits_for_it)),
    (
        "input",
        "name",
        Refused("[[device]]\nname = \"pi\"", "[input]\nname = \"y\"\n[[device]]\nname = \"pi\"", "E0145"),
    ),
    ("input", "dtype", Differs("[[device]]\nname = \"pi\"", "[input]\ndtype = \"u8\"\n[[device]]\nname = \"pi\"")),
    ("input", "layout", Differs("[[device]]\nname = \"pi\"", "[input]\nlayout = \"nhwc\"\n[[device]]\nname = \"pi\"")),
    ("input", "mean", Differs("[[device]]\nname = \"pi\"", "[input]\nmean = [1, 2, 3]\n[[device]]\nname = \"pi\"")),
    ("input", "std", Differs("[[device]]\nname = \"pi\"", "[input]\nstd = 2.5\n[[device]]\nname = \"pi\"")),
    ("condition", "bandwidth", Test(what_needs_variants_is_told)),
    ("condition", "missing", Test(what_needs_variants_is_told)),
];

#[test]
fn every_key_of_a_cluster_file_does_something() {
    for (table, head) in [
        ("cluster", "[cluster]"),
        ("device", "[[device]]"),
        ("link", "[[link]]"),
        ("input", "[input]"),
        ("condition", "[[condition]]"),
    ] {
        // The table of the cluster is needed to get further.
        let before = if table == "cluster" { "" } else { "[cluster]\nname = \"t\"\ninput = \"a\"\noutput = \"a\"\n" };
        let text = format!("{before}{head}\nno-such-key = 1\n");
        let refusal = cluster_file::parse(&text, "cluster.toml", Path::new(".")).expect_err("the key is unknown");
        check_lines(CLUSTER_KEYS, table, &known_keys(&refusal));
    }
    walk(CLUSTER_KEYS, |_| CLUSTER, |_, text| outcome(text, "", small()));
}

/// Beside what they need, or on the wrong kind of device.
#[test]
fn keys_that_would_say_nothing_are_refused() {
    let key = "ab".repeat(32);
    let identity = format!("output = \"a\"\nsecurity = \"none\"\n[[device]]\nidentity = \"{key}\"\n");
    let with = |target: &str, line: &str| single(target) + line + "\n";
    for (text, part) in [
        (with("raspberry-pi-4", "user = \"pi\""), "`user` says nothing without `address`"),
        (with("raspberry-pi-4", "ssh_port = 2222"), "`ssh_port` says nothing without `address`"),
        (with("raspberry-pi-4", "threads = 8"), "`threads` is 8; raspberry-pi-4 has 4 cores"),
        (with("cortex-m7", "threads = 2"), "`threads` is 2; firmware has one"),
        (
            single("raspberry-pi-4").replace("output = \"a\"\n[[device]]\n", &identity),
            "`identity` says nothing with `security = \"none\"`",
        ),
    ] {
        let refusal = cluster_file::parse(&text, "cluster.toml", Path::new(".")).expect_err(part);
        let said = refusal.iter().map(ToString::to_string).collect::<String>();
        assert!(refusal.len() == 1 && said.contains(part) && said.contains("cluster.toml:"), "{said}");
    }
}

#[test]
fn every_key_of_a_cluster_file_is_explained() {
    let text = std::fs::read_to_string(place::repository().join("examples/README.md")).expect("it is there");
    let mut explained: Vec<(String, String)> = Vec::new();
    let mut table = String::new();
    for row in text.lines().filter(|line| line.starts_with("| `[") || line.starts_with("| | `")) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (named, keys) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        if !named.is_empty() {
            table = named.trim_matches(['`', '[', ']']).to_string();
        }
        explained.extend(keys.split('`').skip(1).step_by(2).map(|key| (table.clone(), key.to_string())));
    }
    let mut known: Vec<(String, String)> =
        CLUSTER_KEYS.iter().map(|(table, key, _)| (table.to_string(), key.to_string())).collect();
    explained.sort();
    known.sort();
    assert_eq!(explained, known);
}

fn what_needs_variants_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cluster.toml");
    let text = CLUSTER.replacen("count = 2", "count = 2\nstandalone = true", 1)
        + "\n[[condition]]\nbandwidth = { \"pi-hub\" = \"1 Mbit/s\" }\n[[condition]]\nmissing = [\"hub\"]\n";
    std::fs::write(&path, &text).expect("the folder is ours");
    let mut command = partita_tests::command::compile();
    command.arg("examples/resnet/model.onnx").arg("--targets").arg(&path).arg("--simulate");
    let output = partita_tests::command::succeed(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("`standalone` of pi-0 says nothing without --variants"), "{said}");
    assert!(said.contains("`[[condition]]` of the cluster file says nothing without --variants"), "{said}");
    let cluster = cluster_file::read(&path).expect("the file is sound");
    assert!(cluster.devices[0].standalone && !cluster.devices[2].standalone);
    assert!(!cluster.conditions[0].bandwidth.is_empty() && cluster.conditions[1].missing == [2]);
}

/// The small network's plan sends nothing at the same time as anything else.
fn who_shares_a_medium_waits_for_it() {
    let of = |key: &str| {
        let text = CLUSTER.replace("latency =", &format!("{key}latency ="));
        outcome(&text, "", "resnet").expect("the file is sound")
    };
    let apart = of("");
    for key in ["topology = \"bus\"\n", "duplex = \"half\"\n"] {
        assert!(of(key) != apart, "{key} is accepted and ignored");
    }
}

fn serial_lines_are_as_the_file_says() {
    let with = |line: &str| {
        let text = CLUSTER.replace("transport = \"tcp\"\nbandwidth = \"200 Mbit/s\"", line);
        outcome(&text, "", small()).expect("the file is sound")
    };
    let slow = with("transport = \"uart\"\nbaud = 115200");
    assert!(slow != with("transport = \"uart\"\nbaud = 921600"), "`baud` says nothing");
    assert!(slow != with("transport = \"uart\"\nbaud = 115200\nport = \"/dev/ttyUSB0\""), "`port` says nothing");
}

/// Keys are made once, for devices without `identity`; none is in what is emitted.
fn who_has_a_key_is_given_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, out) = (folder.path().join("cluster.toml"), folder.path().join("out"));
    let public = "6bc3822a2aa7f4e6981d6538692b3cdf3e6df9eea6ed269eb41d93c22757b75a";
    let text = CLUSTER.replacen(
        "target = \"raspberry-pi-3\"\n\n[[link]]",
        &format!("target = \"raspberry-pi-3\"\nidentity = \"{public}\"\n\n[[link]]"),
        1,
    );
    std::fs::write(&path, text).expect("the folder is ours");
    let model = place::repository().join("examples/resnet/model.onnx");
    let compiled = driver::compile(&model, &path, &Options::default(), &mut ()).expect("it compiles");
    let report = commands::summary::report(&compiled);
    let write = || bundle::write(&out, &compiled, &report).expect("the folder is ours");
    write();
    let read = |name: &str| std::fs::read_to_string(out.join("identity").join(name));
    let trusted = read("trusted").expect("it says who is trusted");
    assert!(trusted.contains(&format!("hub {public}\n")), "{trusted}");
    assert!(read("hub.key").is_err(), "who has a key is given none");
    let private = ["pi-0", "pi-1"].map(|name| read(&format!("{name}.key")).expect("it was made"));
    write();
    assert_eq!(["pi-0", "pi-1"].map(|name| read(&format!("{name}.key")).expect("it stays")), private);
    assert_eq!(read("trusted").expect("it stays"), trusted);
    let secrets: Vec<Vec<u8>> = private.iter().flat_map(|text| spellings(text.trim_end())).collect();
    for file in place::files_below(&out, &|path| !path.iter().any(|part| part == "identity")) {
        let bytes = std::fs::read(&file).expect("it was written");
        for secret in &secrets {
            assert!(!bytes.windows(secret.len()).any(|some| some == secret), "{} has a private key", file.display());
        }
    }
}

/// A key of hexadecimal digits as it may be spelled: small and large digits, its bytes, base64 without its last digits,
/// which depend on what follows.
fn spellings(hex: &str) -> [Vec<u8>; 4] {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("digits")).collect();
    let base64 = bytes.chunks_exact(3).flat_map(|some| {
        let bits = u32::from_be_bytes([0, some[0], some[1], some[2]]);
        [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize])
    });
    [hex.as_bytes().to_vec(), hex.to_uppercase().into_bytes(), base64.collect(), bytes]
}
