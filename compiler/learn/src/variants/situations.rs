//! What may happen in the field, as clusters: the conditions of cluster.toml, or, if it has none, links that get slower
//! and devices that go away, one at a time.

use partita_config::{Cluster, Condition};

/// Rates that are prepared for if the user names none, as parts of the nominal one.
const DERIVED_RATES: [f64; 4] = [0.5, 0.2, 0.05, 0.02];

/// Devices whose loss is prepared for if the user names none.
const DERIVED_MISSING: usize = 8;

/// The cluster in some situation.
#[derive(Clone, Debug)]
pub struct Situation {
    /// For readers.
    pub name: String,
    /// All devices, with the links as they are then.
    pub cluster: Cluster,
    /// Devices that are there, ascending.
    pub present: Vec<usize>,
}

impl Situation {
    /// Devices that are gone.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.cluster.devices.len()).filter(|device| !self.present.contains(device)).collect()
    }

    /// Payload bytes per second of each medium: of its slowest link.
    pub fn bytes_per_second(&self) -> Vec<f64> {
        let slowest = |medium: usize| {
            let links = self.cluster.links.iter().filter(|link| link.medium == medium);
            links.map(|link| link.bytes_per_second).fold(f64::INFINITY, f64::min)
        };
        (0..self.cluster.media.len()).map(slowest).map(|rate| if rate.is_finite() { rate } else { 0.0 }).collect()
    }
}

/// The nominal situation, then the others: with all devices and ever slower links, then with missing devices. `taking_part`
/// are the devices of the plan; the loss of others changes nothing.
pub fn situations(cluster: &Cluster, taking_part: &[usize]) -> Vec<Situation> {
    let derived = if cluster.conditions.is_empty() { derived(cluster, taking_part) } else { Vec::new() };
    let conditions = cluster.conditions.iter().chain(&derived);
    let mut found: Vec<Situation> = conditions.map(|condition| applied(cluster, condition)).collect();
    // The slower the links, the later; whoever chooses takes the first whose rates are there.
    let speed = |situation: &Situation| -> f64 {
        situation
            .cluster
            .links
            .iter()
            .zip(&cluster.links)
            .map(|(now, nominal)| now.bytes_per_second / nominal.bytes_per_second)
            .sum()
    };
    found.sort_by(|a, b| {
        let missing = |situation: &Situation| cluster.devices.len() - situation.present.len();
        missing(a).cmp(&missing(b)).then(speed(b).total_cmp(&speed(a)))
    });
    found.insert(0, applied(cluster, &Condition { name: "nominal".to_string(), ..Condition::default() }));
    found
}

fn applied(cluster: &Cluster, condition: &Condition) -> Situation {
    let mut changed = cluster.clone();
    for (link, bytes_per_second) in &condition.bandwidth {
        changed.links[*link].bytes_per_second = *bytes_per_second;
    }
    let present = (0..cluster.devices.len()).filter(|device| !condition.missing.contains(device)).collect();
    Situation { name: condition.name.clone(), cluster: changed, present }
}

fn derived(cluster: &Cluster, taking_part: &[usize]) -> Vec<Condition> {
    let slower = |share: &f64| Condition {
        name: format!("links at {:.0} %", share * 100.0),
        bandwidth: cluster.links.iter().enumerate().map(|(at, link)| (at, link.bytes_per_second * share)).collect(),
        missing: Vec::new(),
    };
    let ends = [cluster.input, cluster.output];
    let can_go = taking_part.iter().filter(|device| !ends.contains(device)).take(DERIVED_MISSING);
    let without = |device: &usize| Condition {
        name: format!("without {}", cluster.devices[*device].name),
        bandwidth: Vec::new(),
        missing: vec![*device],
    };
    let rates = if cluster.links.is_empty() { &[][..] } else { &DERIVED_RATES[..] };
    rates.iter().map(slower).chain(can_go.map(without)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_config::cluster_file::parse;
    use std::path::Path;

    fn cluster(conditions: &str) -> Cluster {
        let text = format!(
            "[cluster]\nname = \"c\"\ninput = \"a\"\noutput = \"a\"\nmax_latency = \"20 ms\"\n\
             [[device]]\nname = \"a\"\ntarget = \"host\"\n[[device]]\nname = \"b\"\ntarget = \"host\"\ncount = 2\n\
             [[link]]\nbetween = [\"a\", \"b\"]\ntransport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\n{conditions}"
        );
        parse(&text, "c", Path::new(".")).expect("the cluster is sound")
    }

    #[test]
    fn slower_links_come_later_and_missing_devices_last() {
        let cluster = cluster(
            "[[condition]]\nmissing = [\"b-1\"]\n[[condition]]\nbandwidth = { \"a-b\" = \"2 Mbit/s\" }\n\
             [[condition]]\nbandwidth = { \"a-b\" = \"10 Mbit/s\" }\n",
        );
        assert_eq!(cluster.max_latency_ms, Some(20.0));
        let found = situations(&cluster, &[0, 1, 2]);
        let names: Vec<&str> = found.iter().map(|situation| situation.name.as_str()).collect();
        assert_eq!(names, ["nominal", "a-b 10 Mbit/s", "a-b 2 Mbit/s", "without b-1"]);
        assert_eq!((found[3].present.clone(), found[3].missing()), (vec![0, 1], vec![2]));
        let rates: Vec<f64> = found.iter().map(|situation| situation.bytes_per_second()[0]).collect();
        assert!((rates[0] / rates[1] - 10.0).abs() < 1e-9 && (rates[1] / rates[2] - 5.0).abs() < 1e-9);
    }

    #[test]
    fn who_names_nothing_is_prepared_for_slow_links_and_single_losses() {
        let found = situations(&cluster(""), &[0, 1]);
        let names: Vec<&str> = found.iter().map(|situation| situation.name.as_str()).collect();
        let expected = ["nominal", "links at 50 %", "links at 20 %", "links at 5 %", "links at 2 %", "without b-0"];
        assert_eq!(names, expected, "b-1 takes no part");
    }
}
