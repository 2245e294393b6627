//! What holds a cluster back, and what would help: the plan under links and computing that take no time, and the network
//! planned for clusters that differ in one thing.

use serde::Serialize;

use super::linked::Linked;
use super::planned::Planned;
use super::routed::Routed;
use super::taught::Taught;
use crate::config::{Cluster, Device, Link};
use crate::options::Options;
use crate::partition::Objective;
use crate::placement::Clock;
use crate::simulate::simulate_alone;

/// What nothing takes any time at: rates are that many times as high.
const FREE: f64 = 1e9;

/// How much faster links are tried.
const FASTER_LINKS: f64 = 10.0;

/// Most devices that are tried as the one with the input, or the output.
const PLACES: usize = 3;

/// Changes that are named.
const NAMED: usize = 3;

/// Least gain of a change that is worth a word.
const WORTH: f64 = 0.01;

/// A cluster that differs in one thing, and what is predicted of the best plan for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What differs.
    pub what: String,
    /// Time of one inference by itself.
    pub latency_ms: f64,
    /// Answers per second.
    pub throughput_hz: f64,
}

/// What holds the cluster back, and what would help.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// In a sentence.
    pub held_back_by: String,
    /// Time of an inference by the same plan if links took no time.
    pub latency_without_links_ms: f64,
    /// The same if computing took none.
    pub latency_without_computing_ms: f64,
    /// Changes of the cluster that help most, the best first; absent if they were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
}

impl Advice {
    /// Of the whole network's plan; `changes` are those that were tried.
    pub fn of(routed: &Routed, cluster: &Cluster, objective: Objective, changes: Option<&[Change]>) -> Advice {
        let placed = &routed.placed;
        let latency_ms = routed.prediction.latency_ms;
        let alike = |cluster: &Cluster| simulate_alone(&placed.sharded, &placed.schedules, cluster).latency_ms;
        let (without_links, without_computing) = (alike(&free_links(cluster)), alike(&free_computing(cluster)));
        let computing = |device: usize| routed.prediction.devices[device].compute_ms;
        let busiest = (0..cluster.devices.len()).max_by(|a, b| computing(*a).total_cmp(&computing(*b))).unwrap_or(0);
        let name = &cluster.devices[busiest].name;
        let held_back_by = if placed.programs.len() == 1 {
            format!("{name} alone computes; links take no part")
        } else if without_computing > without_links {
            format!("links hold the cluster back: {latency_ms:.3} ms would be {without_links:.3} if they took no time")
        } else {
            format!(
                "computing holds the cluster back, most of all on {name}: {latency_ms:.3} ms would be {without_links:.3} if links took no time"
            )
        };
        let gain = |change: &Change| match objective {
            Objective::Throughput => change.throughput_hz / routed.prediction.throughput_hz,
            _ => latency_ms / change.latency_ms,
        };
        let changes = changes.map(|changes| {
            let mut helpful: Vec<Change> =
                changes.iter().filter(|change| gain(change) >= 1.0 + WORTH).cloned().collect();
            helpful.sort_by(|a, b| gain(b).total_cmp(&gain(a)));
            helpful.truncate(NAMED);
            helpful
        });
        Advice {
            held_back_by,
            latency_without_links_ms: without_links,
            latency_without_computing_ms: without_computing,
            changes,
        }
    }
}

fn free_links(cluster: &Cluster) -> Cluster {
    let mut cluster = cluster.clone();
    for link in &mut cluster.links {
        link.bytes_per_second *= FREE;
        link.latency_ms = 0.0;
    }
    for device in &mut cluster.devices {
        device.settings.message_microseconds = Some(0.0);
        device.target.rate.link_bytes_per_second *= FREE;
    }
    cluster
}

fn free_computing(cluster: &Cluster) -> Cluster {
    let mut cluster = cluster.clone();
    for device in &mut cluster.devices {
        let rate = device.target.rate.clone();
        device.target.rate = rate.scaled(FREE);
        device.target.rate.message_microseconds = rate.message_microseconds;
        device.target.rate.link_bytes_per_second = rate.link_bytes_per_second;
    }
    cluster
}

/// What the network would take on clusters that differ from this one in one thing each, those without a plan left out.
/// With exits or variants every number travels as it is there, too.
pub fn changes(taught: &Taught, cluster: &Cluster, options: &Options, has_variants: bool) -> Vec<Change> {
    let is_studied = has_variants || taught.exits.is_some();
    let predicted = |(what, cluster): (String, Cluster)| {
        let same = Taught::nothing(taught.name.clone(), taught.graph.clone());
        let has_routes = is_studied || cluster.survives;
        let linked = Linked::of(same, &cluster, options, has_routes, &mut Clock::default()).ok()?;
        let prediction = Planned::of(linked.placed, &cluster, options.batch).prediction;
        Some(Change { what, latency_ms: prediction.latency_ms, throughput_hz: prediction.throughput_hz })
    };
    alternatives(cluster).into_iter().filter_map(predicted).collect()
}

/// Clusters that differ from one in one thing, and what that is.
fn alternatives(cluster: &Cluster) -> Vec<(String, Cluster)> {
    let mut found = Vec::new();
    if !cluster.links.is_empty() {
        let mut faster = cluster.clone();
        faster.links.iter_mut().for_each(|link| link.bytes_per_second *= FASTER_LINKS);
        found.push((format!("links that are {FASTER_LINKS} times as fast"), faster));
    }
    found.extend(all_cores(cluster));
    found.extend(one_more(cluster));
    let places = |what: &str, now: usize, set: fn(&mut Cluster, usize)| {
        let others: Vec<usize> = (0..cluster.devices.len()).filter(|device| *device != now).collect();
        let differs = |device: &usize| {
            let alike = |other: &usize| cluster.devices[*other].computes_like(&cluster.devices[*device]);
            !others.iter().take_while(|other| *other < device).any(alike)
        };
        let moved = |device: &usize| {
            let mut moved = cluster.clone();
            set(&mut moved, *device);
            (format!("{what} {}", cluster.devices[*device].name), moved)
        };
        others.iter().filter(|device| differs(device)).take(PLACES).map(moved).collect::<Vec<_>>()
    };
    found.extend(places("the input at", cluster.input, |cluster, device| cluster.input = device));
    found.extend(places("the answer wanted at", cluster.output, |cluster, device| cluster.output = device));
    if cluster.survives {
        let without = Cluster { survives: false, ..cluster.clone() };
        found.push(("no plans for the loss of a device (survive = 0)".to_string(), without));
    }
    found
}

/// Threads on all cores of the devices that use one.
fn all_cores(cluster: &Cluster) -> Option<(String, Cluster)> {
    let mut threaded = cluster.clone();
    let mut names = Vec::new();
    for device in &mut threaded.devices {
        let target = &mut device.target;
        // The rates of several threads are in the target already.
        if target.threads == 1 && target.cores > 1 {
            target.threads = target.cores;
            target.rate = target.rate.shared(target.cores);
            names.push(device.name.as_str());
        }
    }
    let whose = match names[..] {
        [] => return None,
        [one] => one.to_string(),
        _ if names.len() == cluster.devices.len() => "every device".to_string(),
        _ => names.join(", "),
    };
    Some((format!("all cores of {whose} (threads = \"all\")"), threaded))
}

/// Another device of the commonest kind, with the links of one of them.
fn one_more(cluster: &Cluster) -> Option<(String, Cluster)> {
    let alike = |device: &Device| cluster.devices.iter().filter(|other| other.computes_like(device)).count();
    let model = (0..cluster.devices.len()).max_by_key(|device| alike(&cluster.devices[*device]))?;
    let own = |link: &&Link| link.between.0 == model || link.between.1 == model;
    let links: Vec<&Link> = cluster.links.iter().filter(own).collect();
    let new = cluster.devices.len();
    let mut more = cluster.clone();
    let name = format!("{}-too", cluster.devices[model].name);
    let device = Device { name, address: None, identity: None, ..cluster.devices[model].clone() };
    more.devices.push(device);
    for link in &links {
        let other = if link.between.0 == model { link.between.1 } else { link.between.0 };
        more.links.push(Link { between: (other, new), ..(*link).clone() });
    }
    more.links.push(Link { between: (model, new), ..(*links.first()?).clone() });
    more.links.sort_by_key(|link| link.between);
    Some((format!("one more device like {}", cluster.devices[model].name), more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster_file;
    use crate::links::LinkOptions;

    fn cluster(more: &str) -> Cluster {
        let text = format!(
            "[cluster]\nname = \"c\"\ninput = \"pi-0\"\noutput = \"hub\"\n{more}[[device]]\nname = \"pi\"\n\
             target = \"raspberry-pi-3\"\ncount = 3\n[[device]]\nname = \"hub\"\ntarget = \"raspberry-pi-4\"\n\
             threads = \"all\"\n[[link]]\nbetween = [\"pi\", \"hub\"]\ntransport = \"tcp\"\n\
             bandwidth = \"100 Mbit/s\"\nlatency = \"0.2 ms\"\n"
        );
        cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("it is sound")
    }

    #[test]
    fn what_is_studied_is_advised_with_links_that_send_every_number_as_it_is() {
        let text = "graph \"g\" opset 17\ninput %0 \"x\": f32[1,3,64,64]\nconst %1 \"w\": f32[16,3,3,3] = random(1)\n\
                    const %2 \"b\": f32[16] = random(2)\n%3 \"y\": f32[1,16,62,62] = \"conv\"(%0, %1, %2) \
                    Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),\
                    groups:1,residual:false,activation:None))\noutput %3\n";
        let graph = crate::graph::text::parse(text).expect("the text is a graph");
        let taught = Taught::nothing("g".to_string(), graph);
        let cluster = cluster("");
        let rounding = crate::links::LinkError::parse("1e-2").expect("a share");
        let rounded = Options { links: LinkOptions { error: rounding, ..LinkOptions::exact() }, ..Options::default() };
        let exact = changes(&taught, &cluster, &Options::default(), false);
        assert_eq!(changes(&taught, &cluster, &rounded, true), exact);
        assert_ne!(changes(&taught, &cluster, &rounded, false), exact, "halves change nothing here");
    }

    #[test]
    fn clusters_differ_in_one_thing_each() {
        let cluster = cluster("survive = 1\n");
        let named: Vec<(String, Cluster)> = alternatives(&cluster);
        let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "links that are 10 times as fast",
                "all cores of pi-0, pi-1, pi-2 (threads = \"all\")",
                "one more device like pi-2",
                "the input at pi-1",
                "the input at hub",
                "the answer wanted at pi-0",
                "no plans for the loss of a device (survive = 0)",
            ]
        );
        assert!(named.iter().all(|(name, other)| *other != cluster && !name.is_empty()));
        let more = &named[2].1;
        let new = more.devices.len() - 1;
        assert!((0..new).all(|device| more.link(device, new).is_some()), "it reaches everybody");
        assert!(more.links.windows(2).all(|pair| pair[0].between < pair[1].between));
    }
}
