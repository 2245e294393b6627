//! What is known of variants in the end, as a report.

use partita_config::Cluster;
use partita_ir::graph::{Graph, Op};
use partita_placement::{Route, ram_bytes};
use partita_program::emit::family::Row;
use partita_program::program::Program;

use super::family::Base;
use super::guided::added;
use super::mapping::{Gain, Mapped, Point, choose};
use super::parts::{Compensation, macs};
use super::report::{ChoiceReport, ConditionReport, DroppedReport, SensitivityReport, VariantReport, VariantsReport};
use super::scores::Score;
use super::search::MOST_SIZE;
use super::situations::Situation;
use super::studied::{Member, Study};
use crate::accuracy::{overcharged, worst_classes};
use crate::confidence::share_range;

/// Classes that are named because they lose most.
const WORST: usize = 3;

/// Name of a member of the front.
pub fn name(member: usize) -> String {
    if member == 0 { "base".to_string() } else { format!("v{member}") }
}

fn compensation_name(compensation: Option<&Compensation>) -> &'static str {
    match compensation {
        None => "nothing",
        Some(Compensation::Map { kernel: 1, .. }) => "map",
        Some(Compensation::Map { .. }) => "convolution",
        Some(Compensation::Shift(_)) => "shift",
        Some(Compensation::Rest(_)) => "rest",
    }
}

/// Range in which the share of right answers lies with 95 % probability.
pub fn range(score: &Score) -> (f64, f64) {
    share_range(score.accuracy(), score.samples)
}

/// What was decided about variants.
pub struct Decided<'a> {
    /// What may happen.
    pub situations: &'a [Situation],
    /// Per situation how each member of the front is computed.
    pub tables: &'a [Vec<Mapped>],
    /// Per situation alternatives to compute the whole network.
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

/// All that is known before the routes are base.
#[expect(clippy::too_many_lines, reason = "one field after the other, as the report has them")]
pub fn report(base: &Base<'_>, study: &Study, decided: &Decided<'_>) -> VariantsReport {
    let Decided { situations, tables, wholes, rows, limit_ms, graphs, routes } = *decided;
    let device_name = |device: &usize| base.cluster.devices[*device].name.clone();
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
                peak_ram_bytes: row.map_or(0, |row| peak_ram_bytes(base, routes, row.route)),
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
    // Of several alternatives, what each saves at most.
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
        let dropped = member.drops(&study.parts).into_iter().map(|(part, compensation)| DroppedReport {
            kind: part.kind,
            node: base.graph.node(part.join).name.clone(),
            compensation: compensation_name(compensation),
        });
        VariantReport {
            name: name(number),
            dropped: dropped.collect(),
            ends_at_exit: member.ends_at,
            accuracy: member.score.accuracy(),
            accuracy_range: range(&member.score),
            loss: member.evidence.difference.loss(),
            loss_bound: losses[number],
            macs: macs(&graphs[number]),
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
    let sensitivity = sensitivity(base.graph, study);
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

/// What an alternative saves beside the whole network; nothing if it is one of that.
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
        reason += &format!("{} of {} alternatives without a part ", heavy.len(), sensitivity.len());
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
        None => "no other alternative was found".to_string(),
    };
    reason
}

/// RAM of the fullest device on a route, by itself.
fn peak_ram_bytes(base: &Base<'_>, routes: &[Route], route: usize) -> u64 {
    let further = route.checked_sub(1).and_then(|further| routes.get(further));
    let programs = further.map_or(&base.placed.programs, |route| &route.programs);
    programs.iter().map(|program| ram_bytes(program, base.cluster)).max().unwrap_or(0)
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
    let total: u64 = study.segments.iter().map(|segment| segment.alternatives[0].macs).sum();
    let mut before = Vec::with_capacity(study.segments.len());
    let mut sum = 0;
    for segment in &study.segments {
        before.push(sum);
        sum += segment.alternatives[0].macs;
    }
    let of_one = |(at, alternative_number, score): &(usize, u8, Score)| {
        let segment = &study.segments[*at];
        let alternative = &segment.alternatives[usize::from(*alternative_number)];
        let [(part, compensation)] = &alternative.drops[..] else { return None };
        let part = &study.parts[*part];
        Some(SensitivityReport {
            kind: part.kind,
            node: graph.node(part.join).name.clone(),
            position: (before[*at] + segment.alternatives[0].macs / 2) as f64 / total.max(1) as f64,
            macs_share: segment.alternatives[0].macs.saturating_sub(alternative.macs) as f64 / total.max(1) as f64,
            compensation: compensation_name(compensation.as_ref()),
            weights_share: added(&study.segments, *at, *alternative_number),
            accuracy_loss: study.alone.accuracy() - score.accuracy(),
            nll: score.loss() - study.alone.loss(),
        })
    };
    study.singles.iter().filter_map(of_one).collect()
}

/// With what the routes add to devices whose weights took so many bytes before; those that are to hold all weights
/// count by themselves.
pub fn with_flash(report: VariantsReport, programs: &[Program], cluster: &Cluster, before: &[usize]) -> VariantsReport {
    let (mut more_flash, mut standalone_bytes) = (0.0f64, 0);
    for (program, before) in programs.iter().zip(before) {
        let more = program.weights_bytes.saturating_sub(*before);
        if cluster.devices[program.device].standalone {
            standalone_bytes = standalone_bytes.max(more as u64);
        } else {
            more_flash = more_flash.max(more as f64 / (*before).max(1) as f64);
        }
    }
    VariantsReport { more_flash, standalone_bytes, ..report }
}

#[cfg(test)]
mod tests {
    use super::super::demanded::Demanded;
    use super::super::parts::PartKind;
    use super::*;
    use crate::accuracy::Limits;

    #[test]
    fn it_is_said_why_nothing_can_go() {
        let part = |weights_share: f64, accuracy_loss: f64| SensitivityReport {
            kind: PartKind::Channels,
            node: "n".to_string(),
            position: 0.5,
            macs_share: 0.1,
            compensation: "rest",
            weights_share,
            accuracy_loss,
            nll: 0.0,
        };
        let limits = Limits { min_accuracy: Some(0.9), ..Limits::default() };
        let study = Study { demanded: Demanded { limits, gap: 0.0 }, ..Study::default() };
        let heavy = only_whole(&[part(0.2, 0.01), part(0.07, 0.0)], &study);
        assert!(heavy.contains("2 of 2 alternatives") && heavy.contains("6 % of its weights"), "{heavy}");
        assert!(heavy.ends_with("no other alternative was found"), "{heavy}");
        let dear = only_whole(&[part(0.0, 0.2), part(0.01, 0.123), part(0.2, 0.0)], &study);
        assert!(
            dear.contains("1 of 3 alternatives") && dear.contains("above 90.0 %") && dear.contains("12.3 points"),
            "{dear}"
        );
    }
}
