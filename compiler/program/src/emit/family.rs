//! The table by which devices choose among routes, and the links by which all hear of it.

use serde::Serialize;

use crate::emit::plan::Numbers;
use crate::emit::steps::sanitize;
use partita_config::Cluster;

/// Routes of a cluster.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Family {
    /// Names; the first is the whole network.
    pub routes: Vec<String>,
    /// When each is taken; the first is how the cluster should be.
    pub conditions: Vec<Row>,
    /// Per device of the cluster the one that it hears from, on the fewest links from the device with the input; none
    /// for that device, and for devices that take no part.
    pub follows: Vec<Option<usize>>,
    /// Links: two devices, ascending, and their medium.
    pub links: Vec<(usize, usize, usize)>,
    /// Whether the device that holds the input also wants the answer.
    pub closes: bool,
}

/// A situation that is prepared for.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Devices that are gone, ascending.
    pub missing: Vec<usize>,
    /// Devices that the route does without, those among them; ascending.
    pub unneeded: Vec<usize>,
    /// Payload bytes per second of each medium.
    pub bytes_per_second: Vec<f64>,
    /// Number of the route.
    pub route: usize,
    /// Milliseconds that an inference on it should take then.
    pub latency_ms: f64,
}

impl Family {
    /// Routes without conditions on a cluster, of which `devices` take part: whoever feeds inputs says which is taken.
    /// Events go from the device with the input along the fewest links.
    pub fn new(routes: Vec<String>, cluster: &Cluster, devices: &[usize]) -> Family {
        let mut follows = vec![None; cluster.devices.len()];
        let mut reached = vec![cluster.input];
        let mut at = 0;
        while let Some(device) = reached.get(at).copied() {
            for other in devices {
                if !reached.contains(other) && cluster.link(device, *other).is_some() {
                    follows[*other] = Some(device);
                    reached.push(*other);
                }
            }
            at += 1;
        }
        let links = cluster.links.iter().map(|link| (link.between.0, link.between.1, link.medium)).collect();
        Family { routes, conditions: Vec::new(), follows, links, closes: cluster.input == cluster.output }
    }

    /// Devices that follow one.
    fn leads(&self, device: usize) -> Vec<usize> {
        (0..self.follows.len()).filter(|other| self.follows[*other] == Some(device)).collect()
    }

    /// Devices that one tells or is told by.
    pub fn neighbours(&self, device: usize) -> Vec<usize> {
        self.follows[device].into_iter().chain(self.leads(device)).collect()
    }

    /// As nodes have it, for `crate/family.rs.j2`. Devices that take no part are nobody's concern.
    pub fn text(&self, numbers: Numbers<'_>) -> FamilyText {
        let row = |row: &Row| RowText {
            missing: numbers.all(&row.missing),
            unneeded: numbers.all(&row.unneeded),
            bytes_per_second: row.bytes_per_second.iter().map(|rate| format!("{rate:.1}")).collect(),
            route: row.route,
            expected_us: (row.latency_ms * 1e3).clamp(1.0, 4e9) as u32,
        };
        FamilyText {
            routes: self.routes.iter().map(|name| sanitize(name)).collect(),
            conditions: self.conditions.iter().map(row).collect(),
            links: self
                .links
                .iter()
                .filter_map(|(a, b, medium)| Some((numbers.of(*a)?, numbers.of(*b)?, *medium)))
                .collect(),
            closes: self.closes,
        }
    }
}

/// A [`Family`] in the template.
#[derive(Clone, Debug, Serialize)]
pub struct FamilyText {
    routes: Vec<String>,
    conditions: Vec<RowText>,
    links: Vec<(usize, usize, usize)>,
    closes: bool,
}

#[derive(Clone, Debug, Serialize)]
struct RowText {
    missing: Vec<usize>,
    unneeded: Vec<usize>,
    /// Literals.
    bytes_per_second: Vec<String>,
    route: usize,
    expected_us: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;
    use partita_config::cluster_file::parse;
    use std::path::Path;

    /// a - b - c - d in a row, and b - d.
    fn row() -> Cluster {
        let mut text = "[cluster]\nname = \"c\"\ninput = \"b\"\noutput = \"d\"\n".to_string();
        ["a", "b", "c", "d"].iter().for_each(|name| {
            text += &format!("[[device]]\nname = \"{name}\"\ntarget = \"host\"\n");
        });
        [("a", "b"), ("b", "c"), ("c", "d"), ("b", "d")].iter().for_each(|(from, to)| {
            text +=
                &format!("[[link]]\nbetween = [\"{from}\", \"{to}\"]\ntransport = \"tcp\"\nbandwidth = \"1 Mbit/s\"\n");
        });
        parse(&text, "c", Path::new(".")).expect("the cluster is sound")
    }

    #[test]
    fn events_take_the_fewest_links_from_the_input() {
        let family = Family::new(vec!["base".to_string()], &row(), &[0, 1, 2, 3]);
        assert_eq!(family.follows, [Some(1), None, Some(1), Some(1)]);
        assert_eq!((family.leads(1), family.neighbours(3)), (vec![0, 2, 3], vec![1]));
        assert!(!family.closes);
        // Who takes no part is not told.
        let fewer = Family::new(vec!["base".to_string()], &row(), &[1, 3]);
        assert_eq!(fewer.follows, [None, None, None, Some(1)]);
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        let family = Family::new(vec!["a\"b\\\n".to_string()], &row(), &[1]).text(Numbers(&[1]));
        let context = minijinja::context! { family => minijinja::Value::from(Serde(&family)) };
        let text = crate::emit::templates::render("crate/family.rs.j2", context).expect("it is rendered");
        let line = text.lines().find(|line| line.contains("routes")).expect("there is a line of routes");
        assert_eq!(line.matches('"').count(), 2, "{line}");
        assert!(!line.contains('\\'), "{line}");
    }
}
