//! Links and conditions of cluster.toml: checked, and spread over the pairs of devices that they join.

use std::collections::{BTreeMap, HashSet};

use toml::Spanned;

use super::cluster::{Condition, Device, Link, Medium, Topology, Transport};
use super::cluster_file::Checker;
use super::tables::{ConditionTable, LinkTable};
use super::target::System;
use super::{quantity, ranges};
use partita_ir::diagnostic::{did_you_mean, printable};

/// Most pairs of devices that a file may link.
const MAX_LINKS: usize = 500_000;

/// Most conditions of a file.
const MAX_CONDITIONS: usize = 100;

impl Checker<'_> {
    /// Links of all tables, by pairs of devices, and what carries them.
    #[expect(clippy::too_many_lines, reason = "one check after the other, in the order of a table's keys")]
    pub(super) fn links(&mut self, tables: &[Spanned<LinkTable>], devices: &[Device]) -> (Vec<Link>, Vec<Medium>) {
        let mut links: Vec<Link> = Vec::new();
        let mut pairs: HashSet<(usize, usize)> = HashSet::new();
        let mut media: Vec<Medium> = Vec::new();
        for table in tables {
            if self.is_full() {
                break;
            }
            let whole = table;
            let table = table.get_ref();
            let Some(transport) = self.transport(&table.transport) else { continue };
            let Some((medium, hub)) = self.medium(table, transport) else { continue };
            let Some(wire_bytes_per_second) = self.wire_rate(whole, transport) else { continue };
            let bytes_per_second = wire_bytes_per_second * transport.payload_share();
            let latency_ms = match &table.latency {
                None => 0.0,
                Some(latency) => match self.latency(latency) {
                    Some(latency_ms) => latency_ms,
                    None => continue,
                },
            };
            let ends: Vec<Vec<usize>> = table
                .between
                .get_ref()
                .iter()
                .filter_map(|name| {
                    let group = self.groups.get(name.get_ref()).cloned();
                    if group.is_none() {
                        self.unknown_device(name.get_ref(), name.span());
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
                self.problem(
                    table.between.span(),
                    "E0166",
                    "a link joins at least two devices".to_string(),
                    Some("name both, for example between = [\"cam\", \"hub\"]".to_string()),
                );
                continue;
            }
            let names = table.between.get_ref();
            let again = names.iter().enumerate().find(|(at, name)| names[..*at].iter().any(|one| one == *name));
            if let Some((_, name)) = again {
                let message = format!("`{}` stands twice in `between`", printable(name.get_ref()));
                self.problem(name.span(), "E0166", message, Some("name every device once".to_string()));
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
            if links.len() + joined.len() * (joined.len() - 1) / 2 > MAX_LINKS && hub.is_none() {
                let message = format!("the links join more than {MAX_LINKS} pairs of devices");
                self.problem(table.between.span(), "E0166", message, None);
                break;
            }
            for (position, a) in joined.iter().enumerate() {
                for b in &joined[position + 1..] {
                    if self.is_full() {
                        break;
                    }
                    let between = (*a, *b);
                    if hub.is_some_and(|hub| hub != *a && hub != *b) {
                        continue;
                    }
                    if !pairs.insert(between) {
                        let message = format!("`{}` and `{}` are linked twice", devices[*a].name, devices[*b].name);
                        let help = Some("leave one of the two [[link]] out".to_string());
                        self.problem(table.between.span(), "E0166", message, help);
                    } else {
                        links.push(Link {
                            between,
                            transport,
                            bytes_per_second,
                            wire_bits_per_second: wire_bytes_per_second * 8.0,
                            ports: self.ports(table.port.as_ref(), transport, between, devices),
                            latency_ms,
                            medium: media.len(),
                        });
                    }
                }
            }
            let names: Vec<&str> = joined.iter().map(|device| devices[*device].name.as_str()).collect();
            self.check_port_names(table.port.as_ref(), &names);
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
                let known = ["switch", "star", "bus", "point-to-point"];
                let help = Some(did_you_mean(other, "topologies", &known));
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

    /// How frames travel, by its name.
    fn transport(&mut self, given: &Spanned<String>) -> Option<Transport> {
        let help = match given.get_ref().as_str() {
            "tcp" => return Some(Transport::Tcp),
            "udp" => return Some(Transport::Udp),
            "uart" => return Some(Transport::Uart),
            "wifi" | "wi-fi" | "wlan" | "wireless" => {
                "write `transport = \"udp\"`, or \"tcp\"; who shares a wireless network says `topology = \"bus\"` too"
                    .to_string()
            }
            "ethernet" | "lan" | "ip" | "internet" | "socket" => "write `transport = \"tcp\"`".to_string(),
            "serial" | "rs232" | "rs-232" | "rs485" | "usart" | "tty" | "usb" => {
                "write `transport = \"uart\"` for a serial line".to_string()
            }
            other => did_you_mean(other, "transports", &["tcp", "udp", "uart"]),
        };
        self.problem(given.span(), "E0165", format!("`{}` is not a transport", printable(given.get_ref())), Some(help));
        None
    }

    /// A rate of the wire.
    pub(super) fn bandwidth(&mut self, given: &Spanned<String>) -> Option<f64> {
        let shown = printable(given.get_ref());
        let message = match quantity::bytes_per_second(given.get_ref()).map(|rate| ranges::BANDWIDTH.check(rate)) {
            Some(Ok(rate)) => return Some(rate),
            Some(Err(_)) => format!("bandwidth `{shown}` is out of range: 100 bit/s to 1000 Gbit/s"),
            None => format!("`{shown}` is not a bandwidth"),
        };
        let help = match given.get_ref().trim().strip_suffix("bps") {
            Some(number) => format!("write it with a slash: \"{}bit/s\"", printable(number)),
            None => "write it like \"100 Mbit/s\"".to_string(),
        };
        self.problem(given.span(), "E0163", message, Some(help));
        None
    }

    fn latency(&mut self, given: &Spanned<String>) -> Option<f64> {
        let message = match quantity::milliseconds(given.get_ref()).map(|time| ranges::LINK_LATENCY.check(time)) {
            Some(Ok(latency_ms)) => return Some(latency_ms),
            Some(Err(problem)) => format!("`latency` {problem}"),
            None => format!("`{}` is not a time", printable(given.get_ref())),
        };
        self.problem(given.span(), "E0163", message, Some("write it like \"1 ms\"".to_string()));
        None
    }

    /// What may happen, in terms of links and devices.
    pub(super) fn conditions(
        &mut self,
        tables: &[Spanned<ConditionTable>],
        devices: &[Device],
        links: &[Link],
    ) -> Vec<Condition> {
        let mut conditions = Vec::with_capacity(tables.len());
        if let Some(one_too_many) = tables.get(MAX_CONDITIONS) {
            let message = format!("there are {} conditions, at most {MAX_CONDITIONS} are taken", tables.len());
            self.problem(one_too_many.span(), "E0160", message, None);
            return conditions;
        }
        let by_pair: BTreeMap<(usize, usize), usize> =
            links.iter().enumerate().map(|(index, link)| (link.between, index)).collect();
        for table in tables {
            if self.is_full() {
                break;
            }
            let table = table.get_ref();
            let mut condition = Condition::default();
            for (pair, rate) in &table.bandwidth {
                let Some(bytes_per_second) = self.bandwidth(rate) else { continue };
                let matching = self.links_of_pair(pair, &by_pair);
                if matching.is_empty() && !self.has_problems() {
                    let message =
                        format!("`{}` names no link, expected two linked devices joined by `-`", printable(pair));
                    self.problem(rate.span(), "E0167", message, Some("for example \"cam-hub\"".to_string()));
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
    fn links_of_pair(&self, pair: &str, by_pair: &BTreeMap<(usize, usize), usize>) -> Vec<usize> {
        let mut found: Vec<usize> = pair
            .match_indices('-')
            .filter_map(|(at, _)| Some((self.groups.get(&pair[..at])?, self.groups.get(&pair[at + 1..])?)))
            .flat_map(|(left, right)| {
                left.iter().flat_map(move |a| right.iter().map(move |b| ((*a).min(*b), (*a).max(*b))))
            })
            .filter_map(|between| by_pair.get(&between).copied())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}
