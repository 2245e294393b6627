//! Mistakes that people make in cluster files: each is answered with the cause, the place and what to do, and with nothing
//! that only follows from it.

use std::path::Path;

use partita::config::cluster_file::{parse, read};
use partita::diagnostic::Diagnostic;
use partita_tests::clock::Clock;

/// A sound file, of which each test changes something.
const GOOD: &str = r#"[cluster]
name = "hall"
input = "cam"
output = "hub"

[[device]]
name = "cam"
target = "host"
address = "127.0.0.1:7411"

[[device]]
name = "hub"
target = "host"
address = "127.0.0.1:7412"

[[link]]
between = ["cam", "hub"]
transport = "tcp"
bandwidth = "100 Mbit/s"
latency = "0.2 ms"
"#;

fn problems(text: &str) -> Vec<Diagnostic> {
    match parse(text, "cluster.toml", Path::new(".")) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(problems) => problems,
    }
}

/// What stands above the carets of a message's excerpt.
fn marked(diagnostic: &Diagnostic) -> String {
    let lines: Vec<&str> = diagnostic.notes.iter().flat_map(|note| note.lines()).collect();
    let carets = lines.iter().position(|line| line.contains('^')).unwrap_or_else(|| panic!("no place: {diagnostic}"));
    let first = lines[carets].find('^').unwrap_or_default();
    lines[carets - 1].chars().skip(first).take(lines[carets].matches('^').count()).collect()
}

/// The change is answered by one message with this code, which marks the part and has all the words.
fn one(from: &str, to: &str, code: &str, part: &str, words: &[&str]) {
    assert!(GOOD.contains(from), "{from}");
    one_of(&GOOD.replacen(from, to, 1), code, part, words);
}

fn one_of(text: &str, code: &str, part: &str, words: &[&str]) {
    let problems = problems(text);
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let [problem] = &problems[..] else { panic!("{} messages:\n{}", all.len(), all.join("\n")) };
    assert_eq!(problem.code, code, "{problem}");
    assert_eq!(marked(problem), part, "{problem}");
    assert!(problem.help.is_some(), "nothing to do: {problem}");
    for word in words {
        assert!(all[0].contains(word), "`{word}` is not in: {}", all[0]);
    }
}

#[test]
fn names_are_recognised_when_misspelt() {
    one("\"cam\", \"hub\"", "\"cam\", \"hbu\"", "E0167", "\"hbu\"", &["did you mean `hub`?", "`cam`"]);
    one("input = \"cam\"", "input = \"cma\"", "E0167", "\"cma\"", &["did you mean `cam`?", "cluster.toml:3:9"]);
    one("bandwidth", "bandwith", "E0160", "bandwith", &["unknown field", "did you mean `bandwidth`?"]);
    one("target = \"host\"", "target = \"hots\"", "E0168", "\"hots\"", &["did you mean `host`?", "raspberry-pi-4"]);
    one("\"tcp\"", "\"tpc\"", "E0165", "\"tpc\"", &["did you mean `tcp`?"]);
    one("\"tcp\"", "\"wifi\"", "E0165", "\"wifi\"", &["transport = \"udp\"", "bus"]);
    one("\"tcp\"", "\"serial\"", "E0165", "\"serial\"", &["transport = \"uart\""]);
    one(
        "transport = \"tcp\"",
        "transport = \"tcp\"\ntopology = \"swich\"",
        "E0165",
        "\"swich\"",
        &["did you mean `switch`?"],
    );
}

#[test]
fn what_only_follows_from_a_mistake_is_not_said() {
    // An unknown target: the device is declared all the same.
    one(
        "name = \"cam\"\ntarget = \"host\"",
        "name = \"cam\"\ntarget = \"raspbery-pi-4\"",
        "E0168",
        "\"raspbery-pi-4\"",
        &["did you mean `raspberry-pi-4`?"],
    );
    // One name twice: the other one is meant, and missing.
    one("name = \"hub\"", "name = \"cam\"", "E0162", "\"cam\"", &["two devices `cam`"]);
    one_of(&GOOD.replace("cam", "Kamera 1"), "E0162", "\"Kamera 1\"", &["not a device name", "lower-case"]);
    // Both targets, and nothing else.
    let both = GOOD.replace("\"host\"", "\"hosst\"");
    assert_eq!(problems(&both).iter().map(|problem| problem.code).collect::<Vec<_>>(), ["E0168", "E0168"]);
    let counted = GOOD.replace("target = \"host\"\naddress = \"127.0.0.1:7412\"", "target = \"hots\"\ncount = 3");
    one_of(
        &counted.replace("\"hub\"", "\"hub-1\"").replace("name = \"hub-1\"", "name = \"hub\""),
        "E0168",
        "\"hots\"",
        &[],
    );
}

#[test]
fn tables_of_the_wrong_kind_are_recognised() {
    one_of(&GOOD.replace("[[device]]", "[device]"), "E0160", "[device]", &["[[device]]", "there may be several"]);
    one("[[link]]", "[link] # one", "E0160", "[link]", &["[[link]]"]);
    one("[cluster]", "[[cluster]]", "E0160", "[[cluster]]", &["one only"]);
    one_of("[[device]]\nname = \"a\"\ntarget = \"host\"\n", "E0160", "[", &["missing field `cluster`", "[cluster]"]);
    one("target = \"host\"\n", "", "E0160", "[[device]]", &["missing field `target`", "raspberry-pi-4"]);
}

#[test]
fn quantities_say_how_they_are_written() {
    one("\"100 Mbit/s\"", "\"100 Mbps\"", "E0163", "\"100 Mbps\"", &["100 Mbit/s"]);
    one("\"100 Mbit/s\"", "\"100\"", "E0163", "\"100\"", &["100 Mbit/s"]);
    one("\"100 Mbit/s\"", "\"0.0001 bit/s\"", "E0163", "\"0.0001 bit/s\"", &["out of range"]);
    one("\"100 Mbit/s\"", "\"1000000 Gbit/s\"", "E0163", "\"1000000 Gbit/s\"", &["out of range"]);
    one("\"0.2 ms\"", "\"fast\"", "E0163", "\"fast\"", &["1 ms"]);
    one("\"0.2 ms\"", "\"2000 s\"", "E0163", "\"2000 s\"", &["60000 ms"]);
    for cpu in ["1e-300", "0.0", "-1.0", "nan", "inf", "1.5", "1e308"] {
        one("target = \"host\"", &format!("target = \"host\"\ncpu = {cpu}"), "E0163", cpu, &["0.001 to 1 of a core"]);
    }
    one("target = \"host\"", "target = \"host\"\nthreads = 0", "E0163", "0", &["1 to 64"]);
    one("target = \"host\"", "target = \"host\"\nram = \"0 B\"", "E0163", "\"0 B\"", &["bytes"]);
    one("target = \"host\"", "target = \"host\"\nram = \"lots\"", "E0163", "\"lots\"", &["512 KiB"]);
    let board = GOOD.replace("input = \"cam\"", "security = \"none\"\ninput = \"cam\"").replace("\"tcp\"", "\"uart\"");
    let board = board.replacen("target = \"host\"", "target = \"cortex-m7\"\nram = \"16 MiB\"", 1);
    one_of(&board, "E0163", "\"16 MiB\"", &["cortex-m7 has"]);
    assert!(parse(&GOOD.replace("\"host\"", "\"host\"\nram = \"64 GiB\""), "cluster.toml", Path::new(".")).is_ok());
    one("\"cam\", \"hub\"]", "\"cam\", \"hub\", \"cam\"]", "E0166", "\"cam\"", &["twice"]);
    one("output = \"hub\"", "output = \"hub\"\nmax_latency = \"0 ms\"", "E0163", "\"0 ms\"", &["50 ms"]);
}

#[test]
fn too_many_devices_are_counted() {
    let more: String = (0..3000).map(|at| format!("[[device]]\nname = \"d{at}\"\ntarget = \"host\"\n")).collect();
    let problems = problems(&GOOD.replace("[[link]]", &format!("{more}[[link]]")));
    let [problem] = &problems[..] else { panic!("{} messages", problems.len()) };
    assert_eq!(problem.code, "E0161");
    assert!(problem.message.contains("this one 3002"), "{problem}");
}

#[test]
fn addresses_are_checked() {
    one("\"127.0.0.1:7412\"", "\"127.0.0.1:7411\"", "E0164", "\"127.0.0.1:7411\"", &["`cam` and `hub`", "one address"]);
    for same in ["\"localhost:7411\"", "\"LocalHost:7411\"", "\"[::1]:7411\""] {
        one("\"127.0.0.1:7412\"", same, "E0164", same, &["`cam` and `hub`", "which is 127.0.0.1:7411"]);
    }
    one("\"127.0.0.1:7412\"", "\"127.0.0.1\"", "E0164", "\"127.0.0.1\"", &["no port", "host:port"]);
    one("\"127.0.0.1:7412\"", "\"127.0.0.1:0\"", "E0164", "\"127.0.0.1:0\"", &["1 and 65535"]);
    one("\"127.0.0.1:7412\"", "\"$(reboot):1\"", "E0164", "\"$(reboot):1\"", &["not an address"]);
    one("\"127.0.0.1:7412\"", "[\"a:1\", \"b:1\"]", "E0164", "[\"a:1\", \"b:1\"]", &["2 addresses", "1 devices"]);
    one("\"127.0.0.1:7412\"", "7", "E0160", "7", &["host:port"]);
}

#[test]
fn links_are_checked() {
    let twice =
        format!("{GOOD}\n[[link]]\nbetween = [\"hub\", \"cam\"]\ntransport = \"tcp\"\nbandwidth = \"1 Mbit/s\"\n");
    one_of(&twice, "E0166", "[\"hub\", \"cam\"]", &["linked twice"]);
    one("[\"cam\", \"hub\"]", "[\"cam\"]", "E0166", "[\"cam\"]", &["at least two"]);
    one("[\"cam\", \"hub\"]", "[\"cam\", \"cam\"]", "E0166", "[\"cam\", \"cam\"]", &["at least two"]);
}

#[test]
fn names_that_other_tools_would_take_for_something_else_are_refused() {
    for name in
        ["-rf", "---", "cam-", "CAM", "a b", "../x", "", "a\u{202e}b", "a\\nb", "an-exceedingly-long-device-name"]
    {
        let text = GOOD.replace("\"cam\"", &format!("\"{name}\""));
        let problems = problems(&text);
        assert_eq!(problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["E0162"], "{name}");
        assert!(!problems[0].to_string().contains('\u{202e}'));
    }
    for name in ["", "two\\nlines", "\\u0000", &"x".repeat(65)] {
        let text = GOOD.replace("\"hall\"", &format!("\"{name}\""));
        assert_eq!(problems(&text)[0].code, "E0162", "{name}");
    }
}

#[test]
fn a_file_with_many_mistakes_is_answered_soon() {
    let started = Clock::start();
    let link = "[[link]]\nbetween = [\"cam\", \"hub\"]\ntransport = \"tcp\"\nbandwidth = \"1 Mbit/s\"\n";
    let links = format!("{GOOD}{}", link.repeat(10_000));
    let found = problems(&links);
    assert!(found.len() <= 20, "{}", found.len());
    assert!(found[found.len() - 1].to_string().contains("there may be more"));
    // Every device with every other one, again and again.
    let many = GOOD.replace("target = \"host\"\naddress = \"127.0.0.1:7411\"", "target = \"host\"\ncount = 999");
    let many = many.replace("\"cam\"\noutput", "\"cam-0\"\noutput");
    assert!(!problems(&format!("{many}{}", link.replace("\"cam\", \"hub\"", "\"cam\"").repeat(5000))).is_empty());
    let devices = "[[device]]\nname = \"cam\"\ntarget = \"host\"\n".repeat(15_000);
    assert!(problems(&format!("{GOOD}{devices}")).len() <= 20);
    let conditions = "[[condition]]\nmissing = [\"cam\"]\n".repeat(20_000);
    assert_eq!(problems(&format!("{GOOD}{conditions}"))[0].code, "E0160");
    assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
}

#[test]
fn other_files_in_the_place_of_the_cluster_are_recognised() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let problems = read(&path).expect_err(name);
        assert_eq!((problems.len(), problems[0].code), (1, "E0160"), "{name}");
        problems[0].to_string()
    };
    let swapped = refused("model.onnx", b"\x08\x08\x12\x07pytorch\x1a\x05\xff\xfe");
    assert!(swapped.contains("ONNX model") && swapped.contains("--targets CLUSTER.toml"), "{swapped}");
    assert!(refused("data.npz", b"PK\x03\x04\x14\0\0\0\0\0\xff\xffx.npy").contains(".npz"));
    assert!(refused("large.toml", &vec![b'#'; (1 << 20) + 1]).contains("1 MiB"));
    assert!(refused("bytes.toml", b"[cluster]\nname = \"\xff\"").contains("UTF-8"));
    for path in ["/dev/zero", "."] {
        let problems = read(Path::new(path)).expect_err(path);
        assert_eq!(problems[0].code, "E0160", "{path}");
    }
}
