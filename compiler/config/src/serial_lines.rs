//! What a `[[link]]` says of a serial line: its rate (`baud`), and where it is on the machines that it joins (`port`).

use toml::Spanned;

use super::cluster::{Device, Ports, Transport};
use super::cluster_file::Checker;
use super::ranges;
use super::tables::LinkTable;
use super::target::System;
use partita_ir::diagnostic::printable;

/// Longest path of a serial line.
const MAX_PORT: usize = 64;

impl Checker<'_> {
    /// Rate of a link's wire in bytes per second: what `bandwidth` says, or `baud` of a serial line.
    pub(super) fn wire_rate(&mut self, table: &Spanned<LinkTable>, transport: Transport) -> Option<f64> {
        let (span, table) = (table.span(), table.get_ref());
        let baud = match (&table.bandwidth, &table.baud) {
            (Some(bandwidth), None) => return self.bandwidth(bandwidth),
            (None, None) => {
                let help = match transport {
                    Transport::Uart => "add it, for example bandwidth = \"1 Mbit/s\", or baud = 921600",
                    Transport::Tcp | Transport::Udp => "add it, for example bandwidth = \"100 Mbit/s\"",
                };
                self.problem(span, "E0160", "missing field `bandwidth`".to_string(), Some(help.to_string()));
                return None;
            }
            (_, Some(baud)) => baud,
        };
        if transport != Transport::Uart || table.bandwidth.is_some() {
            let message = match table.bandwidth {
                Some(_) => "`baud` and `bandwidth` both say how fast the line is",
                None => "`baud` is the rate of a serial line, and this link is none",
            };
            let help = "write `baud` for a serial line, `bandwidth` for any other".to_string();
            self.problem(baud.span(), "E0165", message.to_string(), Some(help));
            return None;
        }
        match ranges::BAUD.check(f64::from(*baud.get_ref())) {
            Ok(bits_per_second) => Some(bits_per_second / 8.0),
            Err(problem) => {
                let help = Some("write bits per second, such as 921600".to_string());
                self.problem(baud.span(), "E0163", format!("`baud` {problem}"), help);
                None
            }
        }
    }

    /// Where the serial line between two devices is on their machines: `port` is a path for all of them, or one by name.
    pub(super) fn ports(
        &mut self,
        given: Option<&Spanned<toml::Value>>,
        transport: Transport,
        between: (usize, usize),
        devices: &[Device],
    ) -> Ports {
        let Some(given) = given else { return [None, None] };
        let ends = [between.0, between.1].map(|device| &devices[device]);
        let is_on = |device: &Device| device.target.system == System::Linux;
        if transport != Transport::Uart || !ends.into_iter().any(is_on) {
            let message = match transport {
                Transport::Uart => "`port` is a path on a machine with an operating system, and this line joins none",
                Transport::Tcp | Transport::Udp => "`port` is where a serial line is, and this link is none",
            };
            let help = Some("a TCP port stands in `address` of a device".to_string());
            self.problem(given.span(), "E0165", message.to_string(), help);
            return [None, None];
        }
        ends.map(|device| {
            let path = match given.get_ref() {
                toml::Value::Table(by_name) => by_name.get(&device.name)?,
                path => path,
            };
            let path = path.as_str().unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@".contains(c);
            if !path.starts_with("/dev/") || path.len() > MAX_PORT || path.contains("..") || !path.chars().all(plain) {
                let message = format!("`{}` is not where a serial line is", printable(path));
                let help = format!(
                    "write port = \"/dev/serial0\", or one for each end: port = {{ {} = \"/dev/ttyUSB0\" }}",
                    device.name
                );
                self.problem(given.span(), "E0165", message, Some(help));
                return None;
            }
            is_on(device).then(|| path.to_string())
        })
    }

    /// Names in `port` that are none of the link's ends.
    pub(super) fn check_port_names(&mut self, given: Option<&Spanned<toml::Value>>, ends: &[&str]) {
        let Some(given) = given else { return };
        let toml::Value::Table(by_name) = given.get_ref() else { return };
        if let Some(other) = by_name.keys().find(|name| !ends.contains(&name.as_str())) {
            let message = format!("`port` names `{}`, which this link does not join", printable(other));
            self.problem(given.span(), "E0167", message, Some(format!("it joins {}", ends.join(", "))));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::Cluster;
    use crate::cluster_file::parse;
    use std::path::Path;

    fn read(link: &str) -> Result<Cluster, String> {
        let text = format!(
            "[cluster]\nname = \"c\"\ninput = \"a\"\noutput = \"a\"\n[[device]]\nname = \"a\"\ntarget = \"x86-64-v3\"\n\
             [[device]]\nname = \"b\"\ntarget = \"cortex-m7\"\n[[link]]\nbetween = [\"a\", \"b\"]\n{link}\n"
        );
        let told = |problems: Vec<_>| problems.iter().map(ToString::to_string).collect::<String>();
        parse(&text, "cluster.toml", Path::new(".")).map_err(told)
    }

    #[test]
    fn a_line_has_a_rate_and_a_place() {
        let both = read("transport = \"uart\"\nbaud = 921600\nport = \"/dev/ttyUSB0\"").expect("it fits");
        assert_eq!(both.links[0].ports, [Some("/dev/ttyUSB0".to_string()), None]);
        assert_eq!(both.links[0].wire_bits_per_second, 921_600.0);
        let as_bandwidth = read("transport = \"uart\"\nbandwidth = \"921.6 kbit/s\"").expect("it fits");
        assert_eq!(as_bandwidth.links[0].bytes_per_second, both.links[0].bytes_per_second);
        let named = read("transport = \"uart\"\nbaud = 115200\nport = { a = \"/dev/serial0\" }").expect("it fits");
        assert_eq!(named.links[0].ports, [Some("/dev/serial0".to_string()), None]);
    }

    #[test]
    fn what_is_no_line_has_neither() {
        let tcp =
            "[[device]]\nname = \"c\"\ntarget = \"x86-64-v3\"\n[[link]]\nbetween = [\"a\", \"c\"]\ntransport = \"tcp\"";
        let line = "transport = \"uart\"\nbaud = 115200";
        for (link, expected) in [
            ("transport = \"uart\"".to_string(), "missing field `bandwidth`"),
            ("transport = \"uart\"\nbaud = 115200\nbandwidth = \"1 Mbit/s\"".to_string(), "both say how fast"),
            ("transport = \"uart\"\nbaud = 0".to_string(), "`baud` is 0"),
            (format!("{line}\n{tcp}\nbaud = 115200"), "this link is none"),
            (format!("{line}\n{tcp}\nbandwidth = \"1 Gbit/s\"\nport = \"/dev/serial0\""), "this link is none"),
            (format!("{line}\nport = \"/dev/x; reboot\""), "not where a serial line is"),
            (format!("{line}\nport = \"/dev/../etc/passwd\""), "not where a serial line is"),
            (format!("{line}\nport = 7"), "not where a serial line is"),
            (format!("{line}\nport = {{ c = \"/dev/serial0\" }}"), "which this link does not join"),
        ] {
            let refusal = read(&link).expect_err("it is wrong");
            assert!(refusal.contains(expected), "{link}: {refusal}");
        }
    }
}
