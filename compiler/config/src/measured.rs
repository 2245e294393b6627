//! Measurements of real devices, written by `compile --measure` and read back to correct the cost model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use super::corrections::Corrections;
use super::learned::{Learned, Origin};
use super::{Cluster, ranges};
use partita_files::file;
use partita_ir::diagnostic::{Diagnostic, place, printable};

/// What was measured: one entry per kind of device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// When and on what; files of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Kinds of devices.
    #[serde(default)]
    pub kind: Vec<DeviceKind>,
    /// Links.
    #[serde(default)]
    pub link: Vec<LinkMeasurement>,
}

/// What one pair of devices saw of the links of one `[[link]]` table.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkMeasurement {
    /// Position of the table in cluster.toml, from 1.
    pub link: usize,
    /// The pair.
    pub between: [String; 2],
    /// A small tensor there and back.
    pub round_trip_ms: f64,
    /// One way, without what the devices do for a message.
    pub latency_ms: f64,
    /// Payload.
    pub bytes_per_second: f64,
}

/// Measurements of one kind of device.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceKind {
    /// Name of the target.
    pub target: String,
    /// Share of a core, as in cluster.toml.
    pub cpu: f64,
    /// Processor time to send or receive one message, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_microseconds: Option<f64>,
    /// What the times were.
    #[serde(flatten)]
    pub corrections: Corrections,
}

/// Where measurements of a cluster lie unless told otherwise: beside its file.
pub fn default_path(cluster: &Path) -> PathBuf {
    cluster.with_extension("measured.toml")
}

/// Applies measurements to the devices they fit, and says that there were some. A missing file is a fault only if it was asked for.
pub fn apply(cluster: &mut Cluster, path: &Path, asked_for: bool) -> Result<Option<Learned>, Vec<Diagnostic>> {
    if !asked_for && !path.exists() {
        return Ok(None);
    }
    let shown = printable(&path.display().to_string());
    let refuse = |message: String| vec![Diagnostic::new("E0169", format!("measurements `{shown}`: {message}"))];
    let text = file::read_text(path).map_err(refuse)?;
    let measured: Measured = toml::from_str(&text).map_err(|error| match error.span() {
        Some(span) => vec![
            Diagnostic::new("E0169", format!("measurements `{shown}`: {}", printable(error.message())))
                .note(place(&text, &shown, span)),
        ],
        None => refuse(printable(error.message())),
    })?;
    let factors = measured.kind.iter().flat_map(|kind| {
        kind.corrections.family.values().chain(kind.corrections.node.values().flat_map(BTreeMap::values))
    });
    let within = |range: ranges::Range, what: &str, value: f64| {
        range.check(value).map(|_| ()).map_err(|problem| refuse(format!("{what} {problem}")))
    };
    factors.into_iter().try_for_each(|factor| within(ranges::FACTOR, "a factor", *factor))?;
    for kind in &measured.kind {
        within(ranges::CPU_SHARE, "`cpu`", kind.cpu)?;
        kind.message_microseconds
            .map_or(Ok(()), |cost| within(ranges::MESSAGE_COST, "`message_microseconds`", cost))?;
    }
    let device: BTreeMap<&str, usize> =
        cluster.devices.iter().enumerate().map(|(index, device)| (device.name.as_str(), index)).collect();
    let mut media = vec![false; cluster.media.len()];
    cluster.links.iter().for_each(|link| media[link.medium] = true);
    for seen in &measured.link {
        let medium = seen.link.wrapping_sub(1);
        if !media.get(medium).copied().unwrap_or(false) {
            continue;
        }
        // Measurements of a cluster file that has been changed since are about other links.
        let ends = [0, 1].map(|end| device.get(seen.between[end].as_str()).copied());
        let fits = match ends {
            [Some(a), Some(b)] => a < b && cluster.link(a, b).is_some_and(|link| link.medium == medium),
            _ => false,
        };
        if !fits {
            return Err(refuse(format!(
                "link {} does not join `{}` and `{}` in the cluster file; measure again",
                seen.link,
                printable(&seen.between[0]),
                printable(&seen.between[1])
            )));
        }
        within(ranges::LINK_RATE, &format!("`bytes_per_second` of link {}", seen.link), seen.bytes_per_second)?;
        within(ranges::LINK_LATENCY, &format!("`latency_ms` of link {}", seen.link), seen.latency_ms)?;
        within(ranges::LINK_LATENCY, &format!("`round_trip_ms` of link {}", seen.link), seen.round_trip_ms)?;
    }
    measured.correct(cluster);
    let says_something = !(measured.kind.is_empty() && measured.link.is_empty());
    Ok(says_something.then(|| Learned::of("measurements", path, measured.origin.as_ref())))
}

impl Measured {
    /// Puts what was measured in the place of what the files say.
    pub fn correct(&self, cluster: &mut Cluster) {
        // Of several measurements of one table, the last counts.
        let by_link: BTreeMap<usize, &LinkMeasurement> = self.link.iter().map(|seen| (seen.link, seen)).collect();
        for link in &mut cluster.links {
            if let Some(seen) = by_link.get(&(link.medium + 1)) {
                link.bytes_per_second = seen.bytes_per_second;
                link.latency_ms = seen.latency_ms;
                // A message cannot have cost a processor more than it took altogether.
                for device in [link.between.0, link.between.1] {
                    let device = &mut cluster.devices[device];
                    let cost = device.message_microseconds().min(seen.round_trip_ms * 500.0);
                    device.settings.message_microseconds = Some(cost);
                }
            }
        }
        for device in &mut cluster.devices {
            let fits = |kind: &&DeviceKind| kind.target == device.target.name && (kind.cpu - device.cpu).abs() < 1e-9;
            if let Some(kind) = self.kind.iter().find(fits) {
                device.settings.corrections = kind.corrections.clone();
                device.settings.message_microseconds =
                    kind.message_microseconds.or(device.settings.message_microseconds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_fall_back_from_method_to_whole_to_family() {
        let text = "[[kind]]\ntarget = \"host\"\ncpu = 0.5\n[kind.family]\nconv = 2.0\n[kind.node.\"a\"]\nwhole = 3.0\nlop = 4.0\n";
        let measured: Measured = toml::from_str(text).expect("the text is sound");
        let corrections = &measured.kind[0].corrections;
        assert_eq!(corrections.factor("a", "lop", "conv"), 4.0);
        assert_eq!(corrections.factor("a", "lip", "conv"), 3.0);
        assert_eq!(corrections.factor("b", "lip", "conv"), 2.0);
        assert_eq!(corrections.factor("b", "lip", "elements"), 1.0);
        let written = toml::to_string(&measured).expect("it is plain data");
        assert_eq!(toml::from_str::<Measured>(&written).expect("it was just written"), measured);
    }

    #[test]
    fn links_are_replaced_by_what_was_seen_of_them() {
        let text = "[cluster]\nname = \"t\"\ninput = \"d-0\"\noutput = \"d-1\"\n[[device]]\nname = \"d\"\ntarget = \"host\"\ncount = 3\n\
                    [[link]]\nbetween = [\"d\"]\ntransport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\nlatency = \"1 ms\"\n";
        let cluster =
            || crate::cluster_file::parse(text, "cluster.toml", Path::new(".")).expect("the cluster is sound");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("cluster.measured.toml");
        let applied = |link: &str| {
            std::fs::write(&path, link).expect("the folder is ours");
            let mut cluster = cluster();
            apply(&mut cluster, &path, true).map(|_| cluster)
        };
        let seen = "[[link]]\nlink = 1\nbetween = [\"d-0\", \"d-2\"]\nround_trip_ms = 0.004\nlatency_ms = 0.001\nbytes_per_second = 5e6\n";
        let changed = applied(seen).expect("the measurements are of this cluster");
        assert!(changed.links.iter().all(|link| (link.bytes_per_second, link.latency_ms) == (5e6, 0.001)));
        assert!(changed.devices.iter().all(|device| device.message_microseconds() <= 2.0));
        for (from, to) in [("d-2", "d-7"), ("5e6", "0.0"), ("latency_ms = 0", "latency_ms = -1")] {
            assert!(applied(&seen.replace(from, to)).is_err(), "{to}");
        }
        let kind =
            |cost: &str| format!("{seen}[[kind]]\ntarget = \"host\"\ncpu = 1.0\nmessage_microseconds = {cost}\n");
        let changed = applied(&kind("1.5")).expect("likewise");
        assert!(changed.devices.iter().all(|device| device.message_microseconds() == 1.5));
        assert!(applied(&kind("-1.0")).is_err() && applied(&kind("nan")).is_err());
    }
}
