//! What an installed device says of itself, read from what [`Machine::run`] with `status` gives.
//!
//! [`Machine::run`]: super::machine::Machine::run

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Longest fault that is shown.
const MOST_FAULT_CHARS: usize = 120;

/// A device as it was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceState {
    /// The device.
    pub device: String,
    /// Its machine.
    pub host: String,
    /// `running`, `not answering`, `not installed`, `unreached`, or why it is none that is installed.
    pub state: &'static str,
    /// What runs it again when it ends: `systemd` or `script`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<String>,
    /// Version that is installed: its plan, and a digest of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Since when its process runs, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Inferences that the process has had a part in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inferences: Option<u64>,
    /// Peers, and whether they are connected.
    pub peers: Vec<(String, bool)>,
    /// How often the process was started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
    /// The last that the process or its supervisor has complained of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl DeviceState {
    /// A device of which no more is known.
    pub fn unknown(device: &str, host: &str, state: &'static str) -> DeviceState {
        DeviceState { device: device.to_string(), host: host.to_string(), state, ..DeviceState::default() }
    }

    /// Reads what the device's script says: `key=value` lines, and behind `---` the program's status.
    pub fn parse(device: &str, host: &str, said: &str) -> DeviceState {
        let (head, status) = said.split_once("---\n").unwrap_or((said, ""));
        let word = |key: &str| {
            let value = head.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            (!value.is_empty()).then(|| value.to_string())
        };
        let number = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let peer = |line: &str| {
            let (name, up) = line.strip_prefix("partita_link_up{")?.split_once("peer=\"")?.1.split_once("\"} ")?;
            Some((name.to_string(), up == "1"))
        };
        let version = word("version");
        let state = match (&version, status.is_empty()) {
            (None, _) => "not installed",
            (Some(_), true) => "not answering",
            (Some(_), false) => "running",
        };
        DeviceState {
            supervisor: word("kind").filter(|_| version.is_some()),
            version,
            since: number("process_start_time_seconds"),
            inferences: number("partita_inferences_total"),
            peers: status.lines().filter_map(peer).collect(),
            restarts: word("restarts").and_then(|text| text.parse().ok()),
            fault: word("fault").map(|text| text.chars().take(MOST_FAULT_CHARS).collect()),
            ..DeviceState::unknown(device, host, state)
        }
    }
}

/// All devices as a table for people.
pub fn table(states: &[DeviceState]) -> String {
    let head = ["device", "host", "state", "version", "running for", "inferences", "peers", "restarts", "last fault"];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_string());
    let row = |state: &DeviceState| {
        let peer = |(name, up): &(String, bool)| if *up { name.clone() } else { format!("{name} (away)") };
        let peers = state.peers.iter().map(peer).collect::<Vec<_>>().join(", ");
        [
            state.device.clone(),
            state.host.clone(),
            state.state.to_string(),
            or_dash(state.version.clone()),
            or_dash(state.since.map(|since| span(now.saturating_sub(since)))),
            or_dash(state.inferences.map(|count| count.to_string())),
            or_dash(Some(peers).filter(|peers| !peers.is_empty())),
            or_dash(state.restarts.map(|count| count.to_string())),
            or_dash(state.fault.as_deref().map(crate::diagnostic::printable)),
        ]
    };
    let rows: Vec<[String; 9]> = std::iter::once(head.map(str::to_string)).chain(states.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A time as people say it.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::{DeviceState, span, table};

    #[test]
    fn what_a_device_says_is_read() {
        let said = "kind=script\nversion=0123-45\nrestarts=3\nfault=2026 ended with status 101\n---\n\
                    partita_plan_info{plan=\"0123\",device=\"1\"} 1\nprocess_start_time_seconds 1700000000\n\
                    partita_inferences_total 12\npartita_link_up{link=\"0\",peer=\"cam\"} 1\npartita_link_up{link=\"1\",peer=\"pi\"} 0\n";
        let state = DeviceState::parse("hub", "10.0.0.2", said);
        assert_eq!((state.state, state.since, state.inferences), ("running", Some(1_700_000_000), Some(12)));
        assert_eq!(state.peers, [("cam".to_string(), true), ("pi".to_string(), false)]);
        assert_eq!((state.restarts, state.version.as_deref()), (Some(3), Some("0123-45")));
        let shown = table(&[state]);
        assert!(shown.contains("cam, pi (away)") && shown.contains("ended with status 101"), "{shown}");
        assert_eq!(DeviceState::parse("hub", "h", "kind=script\nversion=\n").state, "not installed");
        assert_eq!(DeviceState::parse("hub", "h", "kind=script\nversion=1-2\n---\n").state, "not answering");
    }

    #[test]
    fn times_are_short() {
        assert_eq!([0, 119, 120, 7199, 7200, 172_800].map(span), ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
    }
}
