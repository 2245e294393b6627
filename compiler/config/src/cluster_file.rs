//! Reads and checks cluster.toml; every problem is reported at once, with its line.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::cluster::{Cluster, Device};
use super::settings::Settings;
use super::tables::{Addresses, DeviceTable, File};
use super::target::{System, Target};
use super::{quantity, ranges, target};
use partita_files::{file, file_kind};
use partita_ir::diagnostic::{Diagnostic, did_you_mean, did_you_mean_field, parser_words, place, printable, size};

/// Most devices of a cluster.
const MAX_DEVICES: usize = 1000;

/// Most problems of one file that are shown; nobody reads more at once.
const MAX_PROBLEMS: usize = 20;

/// Most devices that a message lists.
const MAX_LISTED: usize = 40;

/// Longest name of a user, as Linux has it.
const MAX_USER_NAME: usize = 32;

/// Longest name of a cluster, in characters.
const MAX_CLUSTER_NAME: usize = 64;

/// What a missing key may look like.
const EXAMPLES: &[(&str, &str)] = &[
    ("cluster", "[cluster]\n      name = \"home\"\n      input = \"cam\"\n      output = \"hub\""),
    ("name", "name = \"cam\""),
    ("target", "target = \"raspberry-pi-4\""),
    ("input", "input = \"cam\", the device that holds the input"),
    ("output", "output = \"hub\", the device that wants the answer"),
    ("between", "between = [\"cam\", \"hub\"]"),
    ("transport", "transport = \"tcp\""),
    ("bandwidth", "bandwidth = \"100 Mbit/s\""),
];

/// Reads a cluster file; targets named by a path are relative to it.
pub fn read(path: &Path) -> Result<Cluster, Vec<Diagnostic>> {
    let shown = printable(&path.display().to_string());
    let refuse = |problem: String| Diagnostic::new("E0160", format!("cluster `{shown}` {problem}"));
    let bytes = match file::read(path, file::MAX_TEXT_BYTES) {
        Ok(bytes) => bytes,
        Err(problem) if path.extension().is_some_and(|extension| extension == "onnx") => {
            return Err(vec![refuse(problem).help(SWAPPED)]);
        }
        Err(problem) => return Err(vec![refuse(problem)]),
    };
    let kind = file_kind::recognise(&bytes);
    let text = file::into_text(bytes).map_err(|problem| match kind {
        Some(file_kind::ONNX) => vec![refuse("is an ONNX model".to_string()).help(SWAPPED)],
        Some(kind) => vec![refuse(format!("is {}, expected a TOML file", kind.what))],
        None => vec![refuse(problem)],
    })?;
    parse(&text, &shown, path.parent().unwrap_or(Path::new(".")))
}

/// What to do where model and cluster were mixed up.
const SWAPPED: &str = "the model comes first, the cluster behind --targets: compile MODEL.onnx --targets CLUSTER.toml";

/// Checks the text of a cluster file.
pub fn parse(text: &str, file_name: &str, folder: &Path) -> Result<Cluster, Vec<Diagnostic>> {
    let file: File = toml::from_str(text).map_err(|error| vec![unreadable(text, file_name, &error)])?;
    let mut checker = Checker {
        text,
        file_name,
        folder,
        problems: Vec::new(),
        groups: BTreeMap::new(),
        refused: HashSet::new(),
        name_taken: false,
    };
    let devices = checker.devices(&file.device);
    let (links, media) = checker.links(&file.link, &devices);
    let table = file.cluster.get_ref();
    let input = checker.one_device(&table.input);
    let output = checker.one_device(&table.output);
    let conditions = checker.conditions(&file.condition, &devices, &links);
    let max_latency_ms = table.max_latency.as_ref().and_then(|text| checker.latency_limit(text));
    let input_form = file.input.as_ref().map(|table| checker.input_form(table));
    let security = checker.security(table.security.as_ref());
    let survives = checker.survives(table.survive.as_ref());
    checker.cluster_name(&table.name);
    match (input, output) {
        (Some(input), Some(output)) if checker.problems.is_empty() => Ok(Cluster {
            name: table.name.get_ref().clone(),
            devices,
            links,
            media,
            input,
            output,
            conditions,
            max_latency_ms,
            input_form,
            security,
            survives,
        }),
        _ => Err(checker.into_problems()),
    }
}

/// What is wrong with a file that is no cluster file at all, and what to do.
fn unreadable(text: &str, file_name: &str, error: &toml::de::Error) -> Diagnostic {
    let refuse = |message: &str| Diagnostic::new("E0160", format!("cluster `{file_name}`: {message}"));
    // `[device]` is one table, and a second one is taken for a repetition: whatever the parser says of it, this is the cause.
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let header = line.split('#').next().unwrap_or("").trim();
        let (right, why) = match header {
            "[device]" => ("[[device]]", "there may be several"),
            "[link]" => ("[[link]]", "there may be several"),
            "[condition]" => ("[[condition]]", "there may be several"),
            "[[cluster]]" => ("[cluster]", "there is one only"),
            _ => {
                start += line.len();
                continue;
            }
        };
        let at = start + line.find(header).unwrap_or(0);
        return refuse(&format!("`{header}` should be `{right}`: {why}"))
            .note(place(text, file_name, at..at + header.len()))
            .help(format!("write `{right}`"));
    }
    let said = error.message();
    let is_address = said.contains("untagged enum Addresses");
    let said = match said {
        _ if is_address => "an address is a string, or a list of strings",
        _ if said.contains("untagged enum Identities") => "an identity is a string, or a list of strings",
        _ => said,
    };
    let mut diagnostic = refuse(&parser_words(said));
    if let Some(span) = error.span() {
        diagnostic = diagnostic.note(place(text, file_name, span));
    }
    let missing = said.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let example = EXAMPLES.iter().find(|(key, _)| Some(*key) == missing);
    let address = is_address.then(|| "write \"host:port\", for example \"192.168.1.20:7100\"".to_string());
    diagnostic.help = address
        .or_else(|| did_you_mean_field(said))
        .or_else(|| Some(format!("add it, for example {}", example.map(|(_, text)| text)?)));
    diagnostic
}

/// A file while it is checked.
pub(super) struct Checker<'a> {
    text: &'a str,
    file_name: &'a str,
    folder: &'a Path,
    problems: Vec<Diagnostic>,
    /// Devices of each name in the file: `pi` with `count = 5` is five.
    pub(super) groups: BTreeMap<String, Vec<usize>>,
    /// Names of devices that were refused, about which nothing more has to be said.
    refused: HashSet<String>,
    /// A name was given twice: one of the two is meant to be another, which is unknown.
    name_taken: bool,
}

impl Checker<'_> {
    pub(super) fn problem(&mut self, span: Range<usize>, code: &'static str, message: String, help: Option<String>) {
        let mut diagnostic = Diagnostic::new(code, message);
        diagnostic.help = help;
        self.add(diagnostic, span);
    }

    fn add(&mut self, diagnostic: Diagnostic, span: Range<usize>) {
        if !self.is_full() {
            self.problems.push(diagnostic.note(place(self.text, self.file_name, span)));
        }
    }

    /// Whether so much is wrong that no more is looked for.
    pub(super) fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    /// Whether anything is wrong so far.
    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    fn into_problems(mut self) -> Vec<Diagnostic> {
        if self.is_full()
            && let Some(last) = self.problems.pop()
        {
            self.problems.push(last.note("there may be more; this is enough for once"));
        }
        self.problems
    }

    fn cluster_name(&mut self, name: &Spanned<String>) {
        let text = name.get_ref();
        if !(1..=MAX_CLUSTER_NAME).contains(&text.chars().count()) || text.contains(char::is_control) {
            let help = Some(format!("use 1 to {MAX_CLUSTER_NAME} characters on one line"));
            self.problem(name.span(), "E0162", format!("`{}` is not a name for a cluster", printable(text)), help);
        }
    }

    #[allow(clippy::too_many_lines, reason = "one check after the other, in the order of a table's keys")]
    fn devices(&mut self, tables: &[Spanned<DeviceTable>]) -> Vec<Device> {
        let mut devices: Vec<Device> = Vec::new();
        let mut names: HashSet<String> = HashSet::new();
        let mut targets: BTreeMap<&str, Target> = BTreeMap::new();
        let mut holders: HashMap<String, usize> = HashMap::new();
        let mut too_many = false;
        for table in tables {
            if self.is_full() {
                break;
            }
            let span = table.span();
            let table = table.get_ref();
            let name = table.name.get_ref();
            let count = table.count.as_ref().map_or(1, |count| *count.get_ref());
            if count == 0 || count > MAX_DEVICES - devices.len() {
                let span = table.count.as_ref().map_or(span, Spanned::span);
                let message = format!("a cluster has 1 to {MAX_DEVICES} devices");
                if count == 0 {
                    self.problem(span, "E0161", message, None);
                } else if !std::mem::replace(&mut too_many, true) {
                    let counts = tables.iter().map(|table| table.get_ref().count.as_ref());
                    let all = counts.map(|count| count.map_or(1, |count| *count.get_ref()));
                    let all = all.fold(0usize, usize::saturating_add);
                    self.problem(span, "E0161", format!("{message}, this one {all}"), None);
                }
                self.refuse_device(name, count);
                continue;
            }
            let legal = (1..=28).contains(&name.len())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                && !name.starts_with('-')
                && !name.ends_with('-');
            if !legal {
                let help = Some(
                    "use up to 28 lower-case letters, digits and `-`, which stands neither first nor last".to_string(),
                );
                self.problem(table.name.span(), "E0162", format!("`{}` is not a device name", printable(name)), help);
                self.refuse_device(name, count);
                continue;
            }
            let target = table.target.get_ref().as_str();
            if !targets.contains_key(target) {
                match target::load(target, self.folder) {
                    Ok(found) => {
                        targets.insert(target, found);
                    }
                    Err(diagnostic) => {
                        self.add(diagnostic, table.target.span());
                        self.refuse_device(name, count);
                        continue;
                    }
                }
            }
            let mut resolved = targets[target].clone();
            if let Some(share) = &table.cpu {
                match ranges::CPU_SHARE.check(*share.get_ref()) {
                    Ok(share) => resolved.rate = resolved.rate.scaled(share),
                    Err(problem) => {
                        let help = Some("write the share of a core that the process may use, such as 0.25".to_string());
                        self.problem(share.span(), "E0163", format!("`cpu` {problem}"), help);
                    }
                }
            }
            if let Some(threads) = &table.threads {
                self.threads(&mut resolved, threads);
            }
            resolved.rate = resolved.rate.shared(resolved.threads);
            let ram_bytes = self.limit(table.ram.as_ref(), &resolved, resolved.ram_bytes);
            let flash_bytes = self.limit(table.flash.as_ref(), &resolved, resolved.flash_bytes);
            let addresses = self.addresses(table.address.as_ref(), count);
            let identities = self.identities(table.identity.as_ref(), count);
            self.login(table);
            let mut members = Vec::with_capacity(count);
            for index in 0..count {
                let name = if table.count.is_some() { format!("{name}-{index}") } else { name.clone() };
                if !names.insert(name.clone()) {
                    let help = Some("give every [[device]] a name of its own".to_string());
                    self.problem(table.name.span(), "E0162", format!("there are two devices `{name}`"), help);
                    self.name_taken = true;
                    continue;
                }
                let address = addresses.get(index).cloned();
                if let (Some(address), Some(given)) = (&address, &table.address)
                    && let Some(holder) = holders.insert(one_spelling(address), devices.len())
                {
                    let holder = devices.get(holder);
                    let other = holder.and_then(|holder: &Device| holder.address.as_ref());
                    let other = other.filter(|other| *other != address);
                    let other = other.map_or(String::new(), |other| format!(", which is {}", printable(other)));
                    let holder = holder.map_or("another", |holder: &Device| holder.name.as_str());
                    let address = printable(address);
                    let message = format!("devices `{holder}` and `{name}` have one address, {address}{other}");
                    let help = Some("a device listens on an address of its own; let the ports differ".to_string());
                    self.problem(given.span(), "E0164", message, help);
                }
                members.push(devices.len());
                devices.push(Device {
                    name,
                    target: resolved.clone(),
                    settings: Settings::default(),
                    ram_bytes,
                    flash_bytes,
                    cpu: table.cpu.as_ref().map_or(1.0, |share| *share.get_ref()),
                    standalone: table.standalone.unwrap_or(false),
                    address,
                    user: table.user.as_ref().map(|user| user.get_ref().clone()),
                    ssh_port: table.ssh_port.as_ref().map(|port| *port.get_ref()),
                    identity: identities.get(index).copied(),
                });
            }
            for member in &members {
                self.groups.insert(devices[*member].name.clone(), vec![*member]);
            }
            if !members.is_empty() {
                self.groups.entry(name.clone()).or_insert(members);
            }
        }
        if tables.is_empty() {
            let help = Some("add one: [[device]] with `name` and `target`".to_string());
            self.problem(0..0, "E0161", "the cluster has no [[device]]".to_string(), help);
        }
        devices
    }

    /// Remembers that a device was declared, if badly: who names it has made no further mistake.
    fn refuse_device(&mut self, name: &str, count: usize) {
        self.refused.insert(name.to_string());
        self.refused.extend((0..count.min(MAX_DEVICES)).map(|index| format!("{name}-{index}")));
    }

    /// How many threads share the kernels of a device, where the cluster file says so.
    fn threads(&mut self, target: &mut Target, threads: &Spanned<toml::Value>) {
        let most = if target.system == System::CortexM { 1 } else { target::MOST_CORES };
        let count = match threads.get_ref() {
            toml::Value::Integer(count) => usize::try_from(*count).ok(),
            toml::Value::String(word) if word == "all" => Some(target.cores.min(most)),
            _ => None,
        };
        match count.filter(|count| (1..=most).contains(count)) {
            Some(count) => target.threads = count,
            None => {
                let help = Some(format!("write a number from 1 to {most}, or \"all\" cores; firmware has one thread"));
                let message = format!("`{}` is not a number of threads", printable(&threads.get_ref().to_string()));
                self.problem(threads.span(), "E0163", message, help);
            }
        }
    }

    /// The target's size, or what cluster.toml says; no more than the target's of a microcontroller.
    fn limit(&mut self, given: Option<&Spanned<String>>, of: &Target, target: u64) -> u64 {
        let Some(given) = given else { return target };
        match quantity::bytes(given.get_ref()) {
            // Computers of one kind are sold with more and less of it; what a microcontroller has is known.
            Some(bytes) if bytes > target && of.system == System::CortexM => {
                let message = format!("a {} has {}, not {}", of.name, size(target), size(bytes));
                let help =
                    Some("leave it out, write less, or describe the board in a target file of its own".to_string());
                self.problem(given.span(), "E0163", message, help);
                target
            }
            Some(bytes) if ranges::MEMORY.contains(bytes as f64) => bytes,
            Some(bytes) => {
                let message =
                    format!("`{}` is {bytes} bytes, expected {}", printable(given.get_ref()), ranges::MEMORY.words());
                let help = Some("write it like \"512 KiB\" or \"2 MB\"".to_string());
                self.problem(given.span(), "E0163", message, help);
                target
            }
            None => {
                let help = Some("write it like \"512 KiB\" or \"2 MB\"".to_string());
                self.problem(given.span(), "E0163", format!("`{}` is not a size", printable(given.get_ref())), help);
                target
            }
        }
    }

    /// Who logs in and where: words of a command line, so no others than people have.
    fn login(&mut self, table: &DeviceTable) {
        if let Some(user) = &table.user {
            let text = user.get_ref();
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if !(1..=MAX_USER_NAME).contains(&text.len()) || !text.chars().all(plain) || text.starts_with(['-', '.']) {
                let message = format!("`{}` is not a user's name", printable(text));
                let help = format!("use up to {MAX_USER_NAME} letters, digits, `.`, `_` and `-`, such as \"pi\"");
                self.problem(user.span(), "E0164", message, Some(help));
            }
        }
        if let Some(port) = table.ssh_port.as_ref().filter(|port| *port.get_ref() == 0) {
            let help = Some("write a port from 1 to 65535; ssh's own is 22".to_string());
            self.problem(port.span(), "E0164", "`ssh_port` is 0".to_string(), help);
        }
    }

    fn addresses(&mut self, given: Option<&Spanned<Addresses>>, count: usize) -> Vec<String> {
        let Some(given) = given else { return Vec::new() };
        let list = match given.get_ref() {
            Addresses::Each(list) => list.clone(),
            Addresses::First(first) => match first.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
                // The first of a range: one port after the other.
                Some((host, Ok(port))) => {
                    (0..count).map(|index| format!("{host}:{}", usize::from(port) + index)).collect()
                }
                _ => vec![first.clone()],
            },
        };
        let port = |address: &str| address.rsplit_once(':')?.1.parse::<u16>().ok().filter(|port| *port > 0);
        let plain = |address: &str| {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c))
                && !host.starts_with('-')
        };
        let wrong = list.iter().find(|address| !plain(address) || port(address).is_none());
        let message = match wrong {
            _ if list.len() != count => format!("{} addresses are given for {count} devices", list.len()),
            Some(address) if !plain(address) => format!("`{}` is not an address", printable(address)),
            Some(address) if !address.contains(':') => format!("address `{}` has no port", printable(address)),
            Some(address) => format!("`{}` has no port between 1 and 65535", printable(address)),
            None => return list,
        };
        let help = match count {
            1 => "write \"host:port\", for example \"192.168.1.20:7100\"".to_string(),
            _ => format!(
                "write \"host:port\" for the first of the {count} devices, whose ports then count up, or a list"
            ),
        };
        self.problem(given.span(), "E0164", message, Some(help));
        Vec::new()
    }
}

impl Checker<'_> {
    /// Says that a device is not declared, unless that follows from what was said before.
    pub(super) fn unknown_device(&mut self, name: &str, span: Range<usize>) {
        if self.refused.contains(name) || self.name_taken || self.groups.is_empty() {
            self.refused.insert(name.to_string());
            return;
        }
        let known: Vec<&str> = self.groups.keys().map(String::as_str).take(MAX_LISTED).collect();
        let help = Some(did_you_mean(name, "declared devices", &known));
        self.problem(span, "E0167", format!("unknown device `{}`", printable(name)), help);
    }

    /// The one device of a name.
    pub(super) fn one_device(&mut self, name: &Spanned<String>) -> Option<usize> {
        match self.groups.get(name.get_ref()).map(Vec::as_slice) {
            Some([device]) => Some(*device),
            Some(several) => {
                let message = format!("`{}` is {} devices, expected one", name.get_ref(), several.len());
                self.problem(name.span(), "E0167", message, Some(format!("for example `{}-0`", name.get_ref())));
                None
            }
            None => {
                self.unknown_device(name.get_ref(), name.span());
                None
            }
        }
    }

    /// Whether the loss of a device is prepared for. It is not if nothing is said.
    fn survives(&mut self, given: Option<&Spanned<i64>>) -> bool {
        match given.map(|given| (given.get_ref(), given.span())) {
            None | Some((0, _)) => false,
            Some((1, _)) => true,
            Some((other, span)) => {
                let help = "0, or 1: any one device may be lost, those that hold the input and want the answer apart";
                self.problem(span, "E0183", format!("`survive` is {other}, expected 0 or 1"), Some(help.to_string()));
                false
            }
        }
    }

    fn latency_limit(&mut self, text: &Spanned<String>) -> Option<f64> {
        let found = quantity::milliseconds(text.get_ref());
        let message = match found.map(|limit_ms| ranges::MAX_LATENCY.check(limit_ms)) {
            Some(Ok(limit_ms)) => return Some(limit_ms),
            Some(Err(problem)) => format!("`max_latency` {problem}"),
            None => format!("`{}` is not a time", printable(text.get_ref())),
        };
        self.problem(text.span(), "E0163", message, Some("write it like \"50 ms\"".to_string()));
        None
    }
}

/// An address as everybody spells it who means it: this machine has three names.
fn one_spelling(address: &str) -> String {
    let Some((host, port)) = address.rsplit_once(':') else { return address.to_string() };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_ascii_lowercase();
    let host = match bare.parse::<IpAddr>() {
        Ok(ip) if ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => "localhost".to_string(),
        Ok(ip) => ip.to_string(),
        Err(_) => bare,
    };
    format!("{host}:{port}")
}
