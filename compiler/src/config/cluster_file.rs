//! Reads and checks cluster.toml; every problem is reported at once, with its line.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::cluster::{Cluster, Condition, Device, Link, Medium, Topology, Transport};
use super::target::{System, Target};
use super::{quantity, target};
use crate::diagnostic::{Diagnostic, printable};

/// Most devices of a cluster.
const MAX_DEVICES: usize = 1000;

/// Most threads of a device.
const MOST_THREADS: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: Spanned<ClusterTable>,
    #[serde(default)]
    device: Vec<Spanned<DeviceTable>>,
    #[serde(default)]
    link: Vec<Spanned<LinkTable>>,
    #[serde(default)]
    condition: Vec<Spanned<ConditionTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterTable {
    name: String,
    input: Spanned<String>,
    output: Spanned<String>,
    max_latency: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceTable {
    name: Spanned<String>,
    target: Spanned<String>,
    count: Option<Spanned<usize>>,
    ram: Option<Spanned<String>>,
    flash: Option<Spanned<String>>,
    cpu: Option<Spanned<f64>>,
    threads: Option<Spanned<usize>>,
    standalone: Option<bool>,
    address: Option<Spanned<Addresses>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Addresses {
    First(String),
    Each(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkTable {
    between: Spanned<Vec<String>>,
    transport: Spanned<String>,
    bandwidth: Spanned<String>,
    latency: Option<Spanned<String>>,
    topology: Option<Spanned<String>>,
    hub: Option<Spanned<String>>,
    duplex: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionTable {
    #[serde(default)]
    bandwidth: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    missing: Vec<Spanned<String>>,
}

/// Reads a cluster file; targets named by a path are relative to it.
pub fn read(path: &Path) -> Result<Cluster, Vec<Diagnostic>> {
    let shown = printable(&path.display().to_string());
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![Diagnostic::new("E0160", format!("cluster `{shown}` cannot be read: {error}"))])?;
    parse(&text, &shown, path.parent().unwrap_or(Path::new(".")))
}

/// Checks the text of a cluster file.
pub fn parse(text: &str, file_name: &str, folder: &Path) -> Result<Cluster, Vec<Diagnostic>> {
    let file: File = toml::from_str(text).map_err(|error| {
        let message = error.message().to_string();
        let diagnostic = Diagnostic::new("E0160", format!("cluster `{file_name}`: {message}"));
        vec![match error.span() {
            Some(span) => diagnostic.note(place(text, file_name, span)),
            None => diagnostic,
        }]
    })?;
    let mut checker = Checker { text, file_name, folder, problems: Vec::new(), groups: BTreeMap::new() };
    let devices = checker.devices(&file.device);
    let (links, media) = checker.links(&file.link, &devices);
    let table = file.cluster.get_ref();
    let input = checker.one_device(&table.input);
    let output = checker.one_device(&table.output);
    let conditions = checker.conditions(&file.condition, &devices, &links);
    let max_latency_ms = table.max_latency.as_ref().and_then(|text| checker.latency_limit(text));
    match (input, output) {
        (Some(input), Some(output)) if checker.problems.is_empty() => {
            Ok(Cluster { name: table.name.clone(), devices, links, media, input, output, conditions, max_latency_ms })
        }
        _ => Err(checker.problems),
    }
}

/// `cluster.toml:4:1`, the line, and a caret under the span.
fn place(text: &str, file_name: &str, span: Range<usize>) -> String {
    let start = span.start.min(text.len());
    let before = &text[..start];
    let line_number = before.matches('\n').count() + 1;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = text[line_start..start].chars().count();
    let line = text[line_start..].lines().next().unwrap_or("");
    let width = text.get(span).map_or(1, |part| part.lines().next().unwrap_or("").chars().count()).max(1);
    format!(
        "{file_name}:{line_number}:{}\n      {}\n      {}{}",
        column + 1,
        printable(line),
        " ".repeat(column),
        "^".repeat(width)
    )
}

struct Checker<'a> {
    text: &'a str,
    file_name: &'a str,
    folder: &'a Path,
    problems: Vec<Diagnostic>,
    /// Devices of each name in the file: `pi` with `count = 5` is five.
    groups: BTreeMap<String, Vec<usize>>,
}

impl Checker<'_> {
    fn problem(&mut self, span: Range<usize>, code: &'static str, message: String, help: Option<String>) {
        let mut diagnostic = Diagnostic::new(code, message).note(place(self.text, self.file_name, span));
        diagnostic.help = help;
        self.problems.push(diagnostic);
    }

    fn devices(&mut self, tables: &[Spanned<DeviceTable>]) -> Vec<Device> {
        let mut devices: Vec<Device> = Vec::new();
        for table in tables {
            let span = table.span();
            let table = table.get_ref();
            let count = table.count.as_ref().map_or(1, |count| *count.get_ref());
            if count == 0 || devices.len() + count > MAX_DEVICES {
                self.problem(span, "E0161", format!("a cluster has 1 to {MAX_DEVICES} devices"), None);
                continue;
            }
            let name = table.name.get_ref();
            let legal = (1..=28).contains(&name.len())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            if !legal {
                let help = Some("use up to 28 lower-case letters, digits and `-`".to_string());
                self.problem(table.name.span(), "E0162", format!("`{}` is not a device name", printable(name)), help);
                continue;
            }
            let mut resolved = match target::load(table.target.get_ref(), self.folder) {
                Ok(target) => target,
                Err(diagnostic) => {
                    let place = place(self.text, self.file_name, table.target.span());
                    self.problems.push(diagnostic.note(place));
                    continue;
                }
            };
            match &table.cpu {
                Some(share) if !(*share.get_ref() > 0.0 && *share.get_ref() <= 1.0) => {
                    let help = Some("write the share of a core that the process may use, such as 0.25".to_string());
                    self.problem(share.span(), "E0163", format!("`{}` is not a share", share.get_ref()), help);
                }
                Some(share) => resolved.rate = resolved.rate.scaled(*share.get_ref()),
                None => {}
            }
            if let Some(threads) = &table.threads {
                self.share_among(&mut resolved, threads);
            }
            let ram_bytes = self.limit(table.ram.as_ref(), resolved.ram_bytes);
            let flash_bytes = self.limit(table.flash.as_ref(), resolved.flash_bytes);
            let addresses = self.addresses(table.address.as_ref(), count);
            let mut members = Vec::with_capacity(count);
            for index in 0..count {
                let name = if table.count.is_some() { format!("{name}-{index}") } else { name.clone() };
                if devices.iter().any(|device| device.name == name) {
                    self.problem(table.name.span(), "E0162", format!("there are two devices `{name}`"), None);
                    continue;
                }
                members.push(devices.len());
                devices.push(Device {
                    name,
                    target: resolved.clone(),
                    ram_bytes,
                    flash_bytes,
                    cpu: table.cpu.as_ref().map_or(1.0, |share| *share.get_ref()),
                    standalone: table.standalone.unwrap_or(false),
                    address: addresses.get(index).cloned(),
                });
            }
            for member in &members {
                self.groups.insert(devices[*member].name.clone(), vec![*member]);
            }
            self.groups.insert(name.clone(), members);
        }
        if tables.is_empty() {
            self.problem(0..0, "E0161", "the cluster has no [[device]]".to_string(), None);
        }
        devices
    }

    /// Lets several threads share the kernels of a device.
    fn share_among(&mut self, target: &mut Target, threads: &Spanned<usize>) {
        let count = *threads.get_ref();
        let most = if target.system == System::CortexM { 1 } else { MOST_THREADS };
        if !(1..=most).contains(&count) {
            let help = Some(format!("write a number from 1 to {most}; firmware has one thread"));
            self.problem(threads.span(), "E0163", format!("`{count}` is not a number of threads"), help);
            return;
        }
        target.threads = count;
        target.rate = target.rate.shared(count);
    }

    /// The smaller of the target's size and what cluster.toml says.
    fn limit(&mut self, given: Option<&Spanned<String>>, target: u64) -> u64 {
        let Some(given) = given else { return target };
        match quantity::bytes(given.get_ref()) {
            Some(bytes) if bytes > 0 => bytes.min(target),
            _ => {
                let help = Some("write it like \"512 KiB\" or \"2 MB\"".to_string());
                self.problem(given.span(), "E0163", format!("`{}` is not a size", printable(given.get_ref())), help);
                target
            }
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
        let legal = |address: &String| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                let host_is_plain =
                    !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c));
                host_is_plain && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        if list.len() != count || !list.iter().all(legal) {
            let help = Some("write \"host:port\" for the first device, or a list with one address each".to_string());
            self.problem(given.span(), "E0164", format!("the address does not fit {count} devices"), help);
            return Vec::new();
        }
        list
    }

    fn links(&mut self, tables: &[Spanned<LinkTable>], devices: &[Device]) -> (Vec<Link>, Vec<Medium>) {
        let mut links: Vec<Link> = Vec::new();
        let mut pairs: HashSet<(usize, usize)> = HashSet::new();
        let mut media: Vec<Medium> = Vec::new();
        for table in tables {
            let table = table.get_ref();
            let transport = match table.transport.get_ref().as_str() {
                "tcp" => Transport::Tcp,
                "udp" => Transport::Udp,
                "uart" => Transport::Uart,
                other => {
                    let help = Some("transports are tcp, udp and uart".to_string());
                    let message = format!("`{}` is not a transport", printable(other));
                    self.problem(table.transport.span(), "E0165", message, help);
                    continue;
                }
            };
            if transport == Transport::Udp {
                let message = "links over udp are not there yet".to_string();
                self.problem(table.transport.span(), "E0165", message, Some("use tcp".to_string()));
                continue;
            }
            let Some((medium, hub)) = self.medium(table, transport) else { continue };
            let Some(wire_bytes_per_second) = quantity::bytes_per_second(table.bandwidth.get_ref()) else {
                let help = Some("write it like \"100 Mbit/s\"; it must be more than 0".to_string());
                let message = format!("`{}` is not a bandwidth", printable(table.bandwidth.get_ref()));
                self.problem(table.bandwidth.span(), "E0163", message, help);
                continue;
            };
            let bytes_per_second = wire_bytes_per_second * transport.payload_share();
            let latency_ms = match &table.latency {
                None => 0.0,
                Some(latency) => match quantity::milliseconds(latency.get_ref()) {
                    Some(latency_ms) => latency_ms,
                    None => {
                        let help = Some("write it like \"1 ms\"".to_string());
                        let message = format!("`{}` is not a time", printable(latency.get_ref()));
                        self.problem(latency.span(), "E0163", message, help);
                        continue;
                    }
                },
            };
            let ends: Vec<Vec<usize>> = table
                .between
                .get_ref()
                .iter()
                .filter_map(|name| {
                    let group = self.groups.get(name).cloned();
                    if group.is_none() {
                        self.unknown_device(name, table.between.span());
                    }
                    group
                })
                .collect();
            if ends.len() != table.between.get_ref().len() {
                continue;
            }
            let mut joined: Vec<usize> = ends.concat();
            joined.sort_unstable();
            joined.dedup();
            if joined.len() < 2 {
                self.problem(table.between.span(), "E0166", "a link joins at least two devices".to_string(), None);
                continue;
            }
            // The hub of a star is the only one that its spokes are joined with; all of them need the transport.
            let firmware = joined.iter().find(|device| devices[**device].target.system == System::CortexM);
            if let Some(device) = firmware.filter(|_| transport != Transport::Uart) {
                let (name, target) = (&devices[*device].name, &devices[*device].target.name);
                let message =
                    format!("`{name}` is a {target}, whose firmware has UARTs only, no {}", table.transport.get_ref());
                let help = Some(
                    "write `transport = \"uart\"`, or give it a peer with an operating system on a serial line"
                        .to_string(),
                );
                self.problem(table.transport.span(), "E0165", message, help);
                continue;
            }
            for (position, a) in joined.iter().enumerate() {
                for b in &joined[position + 1..] {
                    let between = (*a, *b);
                    if hub.is_some_and(|hub| hub != *a && hub != *b) {
                        continue;
                    }
                    if !pairs.insert(between) {
                        let message = format!("`{}` and `{}` are linked twice", devices[*a].name, devices[*b].name);
                        self.problem(table.between.span(), "E0166", message, None);
                    } else {
                        links.push(Link {
                            between,
                            transport,
                            bytes_per_second,
                            wire_bits_per_second: wire_bytes_per_second * 8.0,
                            latency_ms,
                            medium: media.len(),
                        });
                    }
                }
            }
            media.push(medium);
        }
        links.sort_by_key(|link| link.between);
        (links, media)
    }

    /// Topology and duplex of a `[[link]]`, and the hub if it is a star.
    fn medium(&mut self, table: &LinkTable, transport: Transport) -> Option<(Medium, Option<usize>)> {
        let wire = transport == Transport::Uart;
        let (topology, star) = match table.topology.as_ref().map(|topology| topology.get_ref().as_str()) {
            None => (if wire { Topology::PointToPoint } else { Topology::Switch }, false),
            Some("switch") => (Topology::Switch, false),
            Some("star") => (Topology::Switch, true),
            Some("bus") => (Topology::Bus, false),
            Some("point-to-point") => (Topology::PointToPoint, false),
            Some(other) => {
                let span = table.topology.as_ref().map_or(0..0, Spanned::span);
                let help = Some("topologies are switch, star (with `hub`), bus and point-to-point".to_string());
                self.problem(span, "E0165", format!("`{}` is not a topology", printable(other)), help);
                return None;
            }
        };
        let hub = match (&table.hub, star) {
            (Some(hub), true) => Some(self.one_device(hub)?),
            (None, false) => None,
            (Some(hub), false) => {
                let help = Some("write `topology = \"star\"`, or leave `hub` out".to_string());
                self.problem(hub.span(), "E0165", "only a star has a hub".to_string(), help);
                return None;
            }
            (None, true) => {
                let help = Some("name the device in the middle: `hub = \"..\"`".to_string());
                self.problem(table.between.span(), "E0165", "a star needs a hub".to_string(), help);
                return None;
            }
        };
        let half_duplex = match table.duplex.as_ref().map(|duplex| duplex.get_ref().as_str()) {
            None | Some("full") => false,
            Some("half") => true,
            Some(other) => {
                let span = table.duplex.as_ref().map_or(0..0, Spanned::span);
                let help = Some("write `full` or `half`".to_string());
                self.problem(span, "E0165", format!("`{}` is not a duplex", printable(other)), help);
                return None;
            }
        };
        Some((Medium { topology, half_duplex }, hub))
    }

    fn unknown_device(&mut self, name: &str, span: Range<usize>) {
        let known: Vec<String> = self.groups.keys().map(|name| format!("`{name}`")).collect();
        let help = Some(format!("declared devices: {}", known.join(", ")));
        self.problem(span, "E0167", format!("unknown device `{}`", printable(name)), help);
    }

    fn one_device(&mut self, name: &Spanned<String>) -> Option<usize> {
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

    fn latency_limit(&mut self, text: &Spanned<String>) -> Option<f64> {
        let found = quantity::milliseconds(text.get_ref()).filter(|limit| *limit > 0.0);
        if found.is_none() {
            let message = format!("`{}` is not a time, such as `50 ms`", printable(text.get_ref()));
            self.problem(text.span(), "E0163", message, None);
        }
        found
    }

    fn conditions(&mut self, tables: &[Spanned<ConditionTable>], devices: &[Device], links: &[Link]) -> Vec<Condition> {
        let mut conditions = Vec::with_capacity(tables.len());
        for table in tables {
            let table = table.get_ref();
            let mut condition = Condition::default();
            for (pair, rate) in &table.bandwidth {
                let Some(bytes_per_second) = quantity::bytes_per_second(rate.get_ref()) else {
                    let message = format!("`{}` is not a bandwidth", printable(rate.get_ref()));
                    self.problem(rate.span(), "E0163", message, None);
                    continue;
                };
                let matching = self.links_of_pair(pair, links);
                if matching.is_empty() {
                    let message =
                        format!("`{}` names no link, expected two linked devices joined by `-`", printable(pair));
                    self.problem(rate.span(), "E0167", message, None);
                }
                let payload = |link: usize| (link, bytes_per_second * links[link].transport.payload_share());
                condition.bandwidth.extend(matching.into_iter().map(payload));
            }
            for name in &table.missing {
                match self.groups.get(name.get_ref()) {
                    Some(group) => condition.missing.extend(group),
                    None => self.unknown_device(name.get_ref(), name.span()),
                }
            }
            condition.missing.retain(|device| *device < devices.len());
            condition.missing.sort_unstable();
            condition.missing.dedup();
            let rates = table.bandwidth.iter().map(|(pair, rate)| format!("{pair} {}", rate.get_ref()));
            let missing = table.missing.iter().map(|name| format!("without {}", name.get_ref()));
            condition.name = rates.chain(missing).collect::<Vec<_>>().join(", ");
            conditions.push(condition);
        }
        conditions
    }

    /// Links between two groups written `pi-hub`; names may hold `-` themselves.
    fn links_of_pair(&self, pair: &str, links: &[Link]) -> Vec<usize> {
        pair.match_indices('-')
            .filter_map(|(at, _)| Some((self.groups.get(&pair[..at])?, self.groups.get(&pair[at + 1..])?)))
            .flat_map(|(left, right)| {
                links.iter().enumerate().filter_map(move |(index, link)| {
                    let (a, b) = link.between;
                    let joins = left.contains(&a) && right.contains(&b) || left.contains(&b) && right.contains(&a);
                    joins.then_some(index)
                })
            })
            .collect()
    }
}
