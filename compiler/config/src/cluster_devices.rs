//! Devices of a cluster file: `[[device]]` and its keys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use toml::Spanned;

use super::cluster::Device;
use super::cluster_file::Checker;
use super::settings::Settings;
use super::tables::{Addresses, DeviceTable};
use super::target::{System, Target};
use super::{quantity, ranges, target};
use partita_ir::diagnostic::{printable, size};

/// Most devices of a cluster.
pub(super) const MAX_DEVICES: usize = 1000;

/// Longest name of a device: with a number behind it, it is a host's and a program's.
const MAX_NAME: usize = 28;

/// Longest name of a user, as Linux has it.
const MAX_USER_NAME: usize = 32;

/// What the tables that were read so far have taken.
#[derive(Default)]
struct Taken {
    names: HashSet<String>,
    /// Devices by the address that they listen on.
    addresses: HashMap<String, usize>,
}

impl Checker<'_> {
    pub(super) fn devices(&mut self, tables: &[Spanned<DeviceTable>]) -> Vec<Device> {
        let mut devices: Vec<Device> = Vec::new();
        let mut taken = Taken::default();
        let mut targets: BTreeMap<&str, Target> = BTreeMap::new();
        let counts = tables.iter().map(|table| count_of(table.get_ref()));
        let all = counts.fold(0usize, usize::saturating_add);
        let mut too_many = false;
        for spanned in tables {
            if self.is_full() {
                break;
            }
            let table = spanned.get_ref();
            let (name, count) = (table.name.get_ref(), count_of(table));
            if count == 0 || count > MAX_DEVICES - devices.len() {
                let span = table.count.as_ref().map_or(spanned.span(), Spanned::span);
                let message = format!("a cluster has 1 to {MAX_DEVICES} devices");
                if count == 0 {
                    self.problem(span, "E0161", message, None);
                } else if !std::mem::replace(&mut too_many, true) {
                    self.problem(span, "E0161", format!("{message}, this one {all}"), None);
                }
                self.refuse_device(name, count);
                continue;
            }
            let Some(target) = self.named_target(table, &mut targets) else {
                self.refuse_device(name, count);
                continue;
            };
            let members = self.members(table, &target, &mut devices, &mut taken);
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

    /// The target of a table's devices, unless that or their name is wrong.
    fn named_target<'a>(&mut self, table: &'a DeviceTable, known: &mut BTreeMap<&'a str, Target>) -> Option<Target> {
        let name = table.name.get_ref();
        let legal = (1..=MAX_NAME).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !legal {
            let help =
                format!("use up to {MAX_NAME} lower-case letters, digits and `-`, which stands neither first nor last");
            self.problem(table.name.span(), "E0162", format!("`{}` is not a device name", printable(name)), Some(help));
            return None;
        }
        let target = table.target.get_ref().as_str();
        if !known.contains_key(target) {
            match target::load(target, self.folder) {
                Ok(found) => {
                    known.insert(target, found);
                }
                Err(diagnostic) => {
                    self.add(diagnostic, table.target.span());
                    return None;
                }
            }
        }
        Some(known[target].clone())
    }

    /// The devices of a table, added to all; their indices.
    fn members(
        &mut self,
        table: &DeviceTable,
        target: &Target,
        devices: &mut Vec<Device>,
        taken: &mut Taken,
    ) -> Vec<usize> {
        let (name, count) = (table.name.get_ref(), count_of(table));
        let mut resolved = target.clone();
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
        let addresses = self.addresses(table);
        let identities = self.identities(table.identity.as_ref(), count);
        self.login(table);
        let mut members = Vec::with_capacity(count);
        for index in 0..count {
            let name = if table.count.is_some() { format!("{name}-{index}") } else { name.clone() };
            if !taken.names.insert(name.clone()) {
                let help = Some("give every [[device]] a name of its own".to_string());
                self.problem(table.name.span(), "E0162", format!("there are two devices `{name}`"), help);
                self.name_taken = true;
                continue;
            }
            let address = addresses.get(index).cloned();
            if let (Some(address), Some(given)) = (&address, &table.address) {
                let holder = taken.addresses.insert(one_spelling(address), devices.len());
                if let Some(message) = holder.map(|holder| held_by(devices.get(holder), &name, address)) {
                    let help = Some("a device listens on an address of its own; let the ports differ".to_string());
                    self.problem(given.span(), "E0164", message, help);
                }
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
        members
    }

    /// Remembers that a device was declared, if badly: who names it has made no further mistake.
    fn refuse_device(&mut self, name: &str, count: usize) {
        self.refused.insert(name.to_string());
        self.refused.extend((0..count.min(MAX_DEVICES)).map(|index| format!("{name}-{index}")));
    }

    /// How many threads share the kernels of a device, where the cluster file says so.
    fn threads(&mut self, target: &mut Target, threads: &Spanned<toml::Value>) {
        let most = target.most_threads();
        let count = match threads.get_ref() {
            toml::Value::Integer(count) => usize::try_from(*count).ok(),
            toml::Value::String(word) if word == "all" => Some(target.cores.min(most)),
            _ => None,
        };
        match count.filter(|count| (1..=most).contains(count)) {
            Some(count) => target.threads = count,
            None => {
                let (shown, name) = (printable(&threads.get_ref().to_string()), &target.name);
                let (message, help) = match target.system {
                    System::CortexM => (format!("`threads` is {shown}; firmware has one"), "leave it out".to_string()),
                    System::Linux if count.is_some_and(|count| count > most) => {
                        (format!("`threads` is {shown}; {name} has {most} cores"), "write \"all\"".to_string())
                    }
                    System::Linux => (
                        format!("`{shown}` is not a number of threads"),
                        format!("write a number from 1 to {most}, or \"all\" cores"),
                    ),
                };
                self.problem(threads.span(), "E0163", message, Some(help));
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
        let user = table.user.as_ref().map(|user| ("user", user.span()));
        let port = table.ssh_port.as_ref().map(|port| ("ssh_port", port.span()));
        if let (Some((key, span)), None) = (user.or(port), &table.address) {
            let help = "add `address`: --deploy logs in at its host".to_string();
            self.problem(span, "E0164", format!("`{key}` says nothing without `address`"), Some(help));
        }
    }

    fn addresses(&mut self, table: &DeviceTable) -> Vec<String> {
        let Some(given) = &table.address else { return Vec::new() };
        let count = count_of(table);
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

/// How many devices a table describes.
fn count_of(table: &DeviceTable) -> usize {
    table.count.as_ref().map_or(1, |count| *count.get_ref())
}

/// That a device before has the address of this one.
fn held_by(holder: Option<&Device>, name: &str, address: &str) -> String {
    let other = holder.and_then(|holder| holder.address.as_ref()).filter(|other| *other != address);
    let other = other.map_or(String::new(), |other| format!(", which is {}", printable(other)));
    let holder = holder.map_or("another", |holder| holder.name.as_str());
    format!("devices `{holder}` and `{name}` have one address, {}{other}", printable(address))
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
