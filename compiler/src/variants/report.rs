//! What is known of variants, for `report.json`.

use serde::Serialize;

use super::guided::added;
use super::mapping::{Gain, Mapped, Point, choose};
use super::parts::{Kind, Repair};
use super::scores::Score;
use super::search::{Bound, MOST_SIZE};
use super::situations::Situation;
use super::study::{Member, Study};
use crate::accuracy::{ClassLoss, HoldoutReport, Limits, overcharged, worst_classes};
use crate::driver::{Compiled, Route};
use crate::emit::family::Row;
use crate::graph::{Graph, Op};
use crate::placement;

/// Everything about variants.
#[derive(Clone, Debug, Serialize)]
pub struct VariantsReport {
    /// The front: sets of parts that nothing beats; the first is the whole network.
    pub variants: Vec<VariantReport>,
    /// What is taken when.
    pub conditions: Vec<ConditionReport>,
    /// Each part alone.
    pub sensitivity: Vec<SensitivityReport>,
    /// Sets of parts that were measured.
    pub measured_sets: usize,
    /// What is proven of multiply-adds that can be saved at what loss, on the samples that guide the search.
    pub macs_bounds: Vec<Bound>,
    /// The same of traffic.
    pub traffic_bounds: Vec<Bound>,
    /// An answer should not take longer.
    pub max_latency_ms: f64,
    /// Share by which variants make the weights of the device where it is most larger, of those that are not standalone.
    pub more_flash: f64,
    /// Bytes by which they make the weights of a standalone device larger, of the one where it is most.
    pub standalone_bytes: u64,
    /// Why there is nothing but the whole network, where that is so.
    pub only_whole: Option<String>,
    /// What the user limits.
    pub limits: Limits,
    /// The whole network on other samples, if anything is known of that.
    pub holdout: Option<HoldoutReport>,
}

/// A set of parts that can go.
#[derive(Clone, Debug, Serialize)]
pub struct VariantReport {
    /// Name: `base` or `v1`, `v2`, ..
    pub name: String,
    /// What goes: kind and node.
    pub dropped: Vec<DroppedReport>,
    /// The exit at which every inference ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at_exit: Option<usize>,
    /// Share of right answers on calibration samples that did not guide the search.
    pub accuracy: f64,
    /// Between these it lies with 95 % probability (Wilson).
    pub accuracy_range: (f64, f64),
    /// Accuracy that is lost to the whole network without exits, on the same samples.
    pub loss: f64,
    /// What that does not exceed with 90 % probability, of each variant by itself.
    pub loss_bound: f64,
    /// Multiply-adds.
    pub macs: u64,
    /// Predicted where everything is as cluster.toml says.
    pub latency_ms: f64,
    /// Per inference over all links, likewise.
    pub traffic_bytes: u64,
    /// Likewise.
    pub energy_mj: f64,
    /// Share of right answers on the samples of --evaluate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluated_accuracy: Option<f64>,
    /// Share of those samples that ended at each exit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evaluated_exit_shares: Vec<f64>,
    /// Share of inferences that end at each exit, on the calibration samples.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exit_shares: Vec<f64>,
    /// Whether some condition takes it.
    pub compiled: bool,
    /// What it saves beside the whole network where everything is as cluster.toml says: the most in each column.
    #[serde(flatten)]
    pub gain: Gain,
    /// The classes that lose most.
    pub worst_classes: Vec<ClassLoss>,
    /// What all classes together may lose.
    pub allowed_loss: f64,
    /// Classes that lose more than three times that.
    pub overcharged_classes: Vec<ClassLoss>,
}

/// Something that goes.
#[derive(Clone, Debug, Serialize)]
pub struct DroppedReport {
    /// What it is.
    pub kind: Kind,
    /// The node that joined it with the rest.
    pub node: String,
    /// What takes its place: `nothing`, `map` (a linear map of channels), `convolution` (of the neighbourhood, too),
    /// `shift` (a constant per channel), or `rest` (channels that go are a linear map of those that stay).
    pub repair: &'static str,
}

/// What is taken in a situation.
#[derive(Clone, Debug, Serialize)]
pub struct ConditionReport {
    /// What has happened.
    pub name: String,
    /// Names of the devices that are gone.
    pub missing: Vec<String>,
    /// Number of the route, as frames carry it; none if nothing can be computed then.
    pub route: Option<usize>,
    /// The variant that is taken.
    pub variant: Option<String>,
    /// Whether it is in time.
    pub in_time: bool,
    /// RAM that it takes of the device where it is most: working memory, and weights where they live in RAM.
    pub peak_ram_bytes: u64,
    /// How each variant is best computed then: by what the user wants, and what is better in traffic, energy or RAM.
    pub choices: Vec<ChoiceReport>,
}

/// A variant in a situation.
#[derive(Clone, Debug, Serialize)]
pub struct ChoiceReport {
    /// Name of the variant.
    pub variant: String,
    /// Predicted.
    pub latency_ms: f64,
    /// Per inference over all links.
    pub traffic_bytes: u64,
    /// Predicted.
    pub energy_mj: f64,
    /// RAM of the device where it is most, by the sizes of tensors, weights among them where they live in RAM.
    pub ram_bytes: u64,
    /// Names of the devices that compute something.
    pub devices: Vec<String>,
    /// Whether it is what is taken.
    pub taken: bool,
    /// Of variants, what is saved beside the whole network in the same situation.
    #[serde(flatten)]
    pub gain: Gain,
}

/// A part alone.
#[derive(Clone, Debug, Serialize)]
pub struct SensitivityReport {
    /// What it is.
    pub kind: Kind,
    /// The node that joins it with the rest.
    pub node: String,
    /// Place among the model's operations, from 0 to 1.
    pub position: f64,
    /// Multiply-adds that go with it, as a share of the model's.
    pub macs_share: f64,
    /// What takes its place.
    pub repair: &'static str,
    /// Weights that this adds, as a share of the model's.
    pub weights_share: f64,
    /// Loss of accuracy, on the samples that guide the search.
    pub accuracy_loss: f64,
    /// Mean surprise that it adds.
    pub surprise: f64,
}

/// Classes that are named because they lose most.
const WORST: usize = 3;

/// Name of a member of the front.
pub fn name(member: usize) -> String {
    if member == 0 { "base".to_string() } else { format!("v{member}") }
}

fn repair_name(repair: Option<&Repair>) -> &'static str {
    match repair {
        None => "nothing",
        Some(Repair::Map { kernel: 1, .. }) => "map",
        Some(Repair::Map { .. }) => "convolution",
        Some(Repair::Shift(_)) => "shift",
        Some(Repair::Rest(_)) => "rest",
    }
}

/// Range in which a share lies with 95 % probability (Wilson's interval).
pub fn range(score: &Score) -> (f64, f64) {
    let (n, p, z) = (score.samples.max(1) as f64, score.accuracy(), 1.96f64);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / (1.0 + z * z / n);
    (middle - half, middle + half)
}

/// What was decided about variants.
pub struct Decided<'a> {
    /// What may happen.
    pub situations: &'a [Situation],
    /// Per situation how each member of the front is computed.
    pub tables: &'a [Vec<Mapped>],
    /// Per situation ways to compute the whole network.
    pub wholes: &'a [Vec<Point>],
    /// Per situation in which something can be computed the route.
    pub rows: &'a [Row],
    /// An answer should not take longer.
    pub limit_ms: f64,
    /// The network of each member of the front.
    pub graphs: &'a [Graph],
    /// The routes beside the whole network.
    pub routes: &'a [Route],
}

/// All that is known before the routes are compiled.
pub fn report(compiled: &Compiled, study: &Study, decided: &Decided<'_>) -> VariantsReport {
    let Decided { situations, tables, wholes, rows, limit_ms, graphs, routes } = *decided;
    let device_name = |device: &usize| compiled.cluster.devices[*device].name.clone();
    let losses = study.loss_bounds(graphs);
    let loss = |member: usize| losses[member];
    let mut next_row = rows.iter();
    let mut taken = vec![false; study.front.len()];
    let conditions: Vec<ConditionReport> = situations
        .iter()
        .zip(tables)
        .zip(wholes)
        .map(|((situation, mapped), whole)| {
            let chosen = choose(mapped, limit_ms, loss);
            let row = chosen.and_then(|_| next_row.next());
            if let Some(chosen) = chosen {
                taken[chosen.member] = true;
            }
            ConditionReport {
                name: situation.name.clone(),
                missing: situation.missing().iter().map(device_name).collect(),
                route: row.map(|row| row.route),
                variant: chosen.map(|chosen| name(chosen.member)),
                in_time: chosen.is_some_and(|chosen| chosen.latency_ms <= limit_ms),
                peak_ram_bytes: row.map_or(0, |row| peak_ram_bytes(compiled, routes, row.route)),
                choices: mapped
                    .iter()
                    .map(|one| ChoiceReport {
                        taken: chosen.is_some_and(|chosen| std::ptr::eq(chosen, one)),
                        gain: gain(one, whole),
                        ..choice(one, &graphs[one.member], &device_name)
                    })
                    .collect(),
            }
        })
        .collect();
    // Of several ways, what each saves at most.
    let gains = |member: usize| {
        let own = tables.first().zip(wholes.first()).into_iter();
        let own = own.flat_map(|(mapped, whole)| mapped.iter().map(move |one| (one, gain(one, whole))));
        let own: Vec<Gain> = own.filter(|(one, _)| one.member == member).map(|(_, gain)| gain).collect();
        let most = |of: &dyn Fn(&Gain) -> Option<f64>| own.iter().filter_map(of).max_by(f64::total_cmp);
        Gain {
            less_traffic_at_equal_latency: most(&|gain| gain.less_traffic_at_equal_latency),
            less_latency_at_equal_traffic: most(&|gain| gain.less_latency_at_equal_traffic),
        }
    };
    let nominal = |member: usize| tables.first().and_then(|mapped| mapped.iter().find(|one| one.member == member));
    let variant = |(number, member): (usize, &Member)| {
        let dropped = member.drops(&study.parts).into_iter().map(|(part, repair)| DroppedReport {
            kind: part.kind,
            node: compiled.graph.node(part.join).name.clone(),
            repair: repair_name(repair),
        });
        VariantReport {
            name: name(number),
            dropped: dropped.collect(),
            ends_at_exit: member.ends_at,
            accuracy: member.score.accuracy(),
            accuracy_range: range(&member.score),
            loss: member.evidence.difference.loss(),
            loss_bound: losses[number],
            macs: super::parts::macs(&graphs[number]),
            latency_ms: nominal(number).map_or(0.0, |one| one.latency_ms),
            traffic_bytes: nominal(number).map_or(0, |one| one.traffic_bytes),
            energy_mj: nominal(number).map_or(0.0, |one| one.energy_mj),
            evaluated_accuracy: None,
            evaluated_exit_shares: Vec::new(),
            exit_shares: graphs[number].exit_shares(),
            compiled: taken[number],
            gain: gains(number),
            allowed_loss: study.demanded.allowed_loss(study.base.score),
            worst_classes: worst_classes(&member.evidence.classes, WORST),
            overcharged_classes: overcharged(&member.evidence.classes, study.demanded.allowed_loss(study.base.score)),
        }
    };
    let sensitivity = sensitivity(&compiled.graph, study);
    let only_whole =
        (study.front.len() == 1).then(|| study.unsought.clone().unwrap_or_else(|| only_whole(&sensitivity, study)));
    VariantsReport {
        variants: study.front.iter().enumerate().map(variant).collect(),
        conditions,
        sensitivity,
        measured_sets: study.measured,
        macs_bounds: study.bounds.0.clone(),
        traffic_bounds: study.bounds.1.clone(),
        max_latency_ms: limit_ms,
        more_flash: 0.0,
        standalone_bytes: 0,
        only_whole,
        limits: study.demanded.limits,
        holdout: study.holdout,
    }
}

/// What a way saves beside the whole network; nothing if it is one of that.
fn gain(mapped: &Mapped, whole: &[Point]) -> Gain {
    let own = Point { latency_ms: mapped.latency_ms, traffic_bytes: mapped.traffic_bytes };
    if mapped.member == 0 { Gain::default() } else { Gain::of(own, whole) }
}

/// Why no set of parts can go.
fn only_whole(sensitivity: &[SensitivityReport], study: &Study) -> String {
    let (heavy, light): (Vec<_>, Vec<_>) = sensitivity.iter().partition(|part| part.weights_share > MOST_SIZE);
    let mut reason = "the whole network is all there is: ".to_string();
    if !heavy.is_empty() {
        let most = MOST_SIZE * 100.0;
        reason += &format!("{} of {} ways to do without a part ", heavy.len(), sensitivity.len());
        reason += &format!(
            "would add more than {most:.0} % of its weights in its place, which is most of what a device may hold more; "
        );
    }
    let least = light.iter().map(|part| part.accuracy_loss).min_by(f64::total_cmp);
    reason += &match least {
        Some(least) => format!(
            "of the {} others none is both smaller and above {:.1} % (a single part loses {:.1} points at least)",
            light.len(),
            study.demanded.floor(study.base.score) * 100.0,
            least * 100.0
        ),
        None => "no other way was found".to_string(),
    };
    reason
}

/// RAM of the fullest device on a route, by itself.
fn peak_ram_bytes(compiled: &Compiled, routes: &[Route], route: usize) -> u64 {
    let further = route.checked_sub(1).and_then(|further| routes.get(further));
    let programs = further.map_or(&compiled.programs, |route| &route.programs);
    programs.iter().map(|program| placement::ram_bytes(program, &compiled.cluster)).max().unwrap_or(0)
}

fn choice(mapped: &Mapped, graph: &Graph, device_name: &dyn Fn(&usize) -> String) -> ChoiceReport {
    let mut devices: Vec<usize> = mapped
        .partition
        .strategies
        .iter()
        .filter(|(id, _)| graph.contains(**id) && !matches!(graph.node(**id).op, Op::Reshape { .. }))
        .flat_map(|(_, strategy)| strategy.devices())
        .collect();
    devices.sort_unstable();
    devices.dedup();
    ChoiceReport {
        variant: name(mapped.member),
        latency_ms: mapped.latency_ms,
        traffic_bytes: mapped.traffic_bytes,
        energy_mj: mapped.energy_mj,
        ram_bytes: mapped.ram_bytes,
        devices: devices.iter().map(device_name).collect(),
        taken: false,
        gain: Gain::default(),
    }
}

fn sensitivity(graph: &Graph, study: &Study) -> Vec<SensitivityReport> {
    let total: u64 = study.segments.iter().map(|segment| segment.ways[0].macs).sum();
    let mut before = Vec::with_capacity(study.segments.len());
    let mut sum = 0;
    for segment in &study.segments {
        before.push(sum);
        sum += segment.ways[0].macs;
    }
    let of_one = |(at, way_number, score): &(usize, u8, Score)| {
        let segment = &study.segments[*at];
        let way = &segment.ways[usize::from(*way_number)];
        let [(part, repair)] = &way.drops[..] else { return None };
        let part = &study.parts[*part];
        Some(SensitivityReport {
            kind: part.kind,
            node: graph.node(part.join).name.clone(),
            position: (before[*at] + segment.ways[0].macs / 2) as f64 / total.max(1) as f64,
            macs_share: segment.ways[0].macs.saturating_sub(way.macs) as f64 / total.max(1) as f64,
            repair: repair_name(repair.as_ref()),
            weights_share: added(&study.segments, *at, *way_number),
            accuracy_loss: study.alone.accuracy() - score.accuracy(),
            surprise: score.loss() - study.alone.loss(),
        })
    };
    study.singles.iter().filter_map(of_one).collect()
}

impl VariantsReport {
    /// With what the routes add to devices whose weights took so many bytes before; those that are to hold all weights
    /// count by themselves.
    pub fn with_flash(self, compiled: &Compiled, before: &[usize]) -> VariantsReport {
        let (mut more_flash, mut standalone_bytes) = (0.0f64, 0);
        for (program, before) in compiled.programs.iter().zip(before) {
            let more = program.weights_bytes.saturating_sub(*before);
            if compiled.cluster.devices[program.device].standalone {
                standalone_bytes = standalone_bytes.max(more as u64);
            } else {
                more_flash = more_flash.max(more as f64 / (*before).max(1) as f64);
            }
        }
        VariantsReport { more_flash, standalone_bytes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::demanded::Demanded;
    use super::*;

    #[test]
    fn it_is_said_why_nothing_can_go() {
        let part = |weights_share: f64, accuracy_loss: f64| SensitivityReport {
            kind: Kind::Channels,
            node: "n".to_string(),
            position: 0.5,
            macs_share: 0.1,
            repair: "rest",
            weights_share,
            accuracy_loss,
            surprise: 0.0,
        };
        let limits = Limits { min_accuracy: Some(0.9), ..Limits::default() };
        let study = Study { demanded: Demanded { limits, gap: 0.0 }, ..Study::default() };
        let heavy = only_whole(&[part(0.2, 0.01), part(0.07, 0.0)], &study);
        assert!(heavy.contains("2 of 2 ways") && heavy.contains("6 % of its weights"), "{heavy}");
        assert!(heavy.ends_with("no other way was found"), "{heavy}");
        let dear = only_whole(&[part(0.0, 0.2), part(0.01, 0.123), part(0.2, 0.0)], &study);
        assert!(
            dear.contains("1 of 3 ways") && dear.contains("above 90.0 %") && dear.contains("12.3 points"),
            "{dear}"
        );
    }
}
