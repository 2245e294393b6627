//! The report on a terminal.

use super::learned;
use crate::bundle::identity;
use crate::bundle::report::{DeviceReport, Report, SurvivalReport};
use crate::cli::Format;
use crate::diagnostic::size;
use crate::driver::{Change, Compiled};
use crate::links::LinksReport;

/// Prints the report to standard output.
pub fn report(report: &Report, compiled: &Compiled, format: Format) -> anyhow::Result<()> {
    learned::warn(report);
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(report)?),
        Format::Human => human(report, compiled),
    }
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "one line after the other, as they are printed")]
fn human(report: &Report, compiled: &Compiled) {
    let model = &report.model;
    println!(
        "{}: {} nodes, {} parameters, {} MAC",
        model.name,
        model.nodes,
        grouped(model.parameters),
        grouped(model.macs)
    );
    if !model.computed_in_f32.is_empty() {
        let types = model.computed_in_f32.join(", ");
        println!("numbers of {types} are computed in f32; inputs and outputs are of the types that the model promises");
    }
    let plan = &report.plan;
    println!(
        "plan {}: {} for {} {}; predicted latency {:.3} ms{}, {:.1} /s, {} B sent, {:.3} mJ",
        plan.hash,
        plan.strategy,
        if plan.objective == "throughput" { "most" } else { "least" },
        plan.objective,
        plan.latency_ms,
        if plan.batch > 1 { format!(" for {} samples together", plan.batch) } else { String::new() },
        plan.throughput_hz,
        grouped(plan.traffic_bytes),
        plan.energy_mj,
    );
    match plan.security {
        Some("none") => println!(
            "links are open (security = \"none\"): whoever reaches a device is believed, and reads what devices say"
        ),
        Some(_) if identity::check(&compiled.cluster).is_err() => println!(
            "links would be sealed, but not every device has what that takes: nothing is built until the cluster file says \
             security = \"none\" (E0181)"
        ),
        Some(_) => println!("devices prove to each other who they are, and what they say is sealed"),
        None => {}
    }
    if !plan.proven.is_empty() {
        println!("proven: {} (gap {:.1} %)", plan.proven, plan.gap * 100.0);
    }
    if let Some(links) = &report.links {
        println!("{}", links_line(links));
    }
    if let Some(survival) = &report.survival {
        println!("{}", survival_line(survival, plan.latency_ms));
    }
    if let Some(single) = plan.single_device_ms {
        let verdict = if compiled.routed.placed.programs.len() > 1 && single < plan.mean_latency_ms {
            " - one device would answer sooner; the cluster buys throughput or memory"
        } else {
            ""
        };
        // Of exits one is a mean, and a time of all inferences is not to be compared with it.
        let on_average = if plan.mean_latency_ms == plan.latency_ms {
            String::new()
        } else {
            format!(" on average, of the cluster {:.3} ms", plan.mean_latency_ms)
        };
        println!("best single device: {single:.3} ms{on_average}{verdict}");
    }
    if compiled.routed.placed.programs.len() > 1 {
        println!("{}", report.advice.held_back_by);
    }
    for change in report.advice.changes.iter().flatten() {
        let Change { what, latency_ms, throughput_hz } = change;
        println!("with {what}: {latency_ms:.3} ms, {throughput_hz:.1} /s");
    }
    if report.advice.changes.as_ref().is_some_and(Vec::is_empty) {
        println!("no change that was tried would help");
    }
    println!(
        "\n{:<12} {:<16} {:>14} {:>12} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "predicted", "target", "MAC", "weights B", "arena B", "sent B", "recv B", "compute ms", "link ms"
    );
    for device in &report.devices {
        println!(
            "{:<12} {:<16} {:>14} {:>12} {:>12} {:>10} {:>10} {:>10.3} {:>10.3}",
            device.name,
            device.target,
            grouped(device.macs),
            grouped(device.weights_bytes),
            grouped(device.arena_bytes),
            grouped(device.sent_bytes),
            grouped(device.received_bytes),
            device.compute_ms,
            device.link_ms,
        );
    }
    match &plan.unused_devices[..] {
        [] => {}
        [one] => println!("{one} takes no part"),
        several => println!("{} take no part", several.join(", ")),
    }
    if report.devices.iter().any(|device| device.measured.is_some()) {
        println!(
            "{:<12} {:<16} {:>14} {:>12} {:>12} {:>10} {:>10} {:>10} {:>10}",
            "measured", "", "", "", "", "sent B", "recv B", "compute ms", "link ms"
        );
    }
    for device in &report.devices {
        let Some(measured) = &device.measured else { continue };
        println!(
            "{:<12} {:<16} {:>14} {:>12} {:>12} {:>10} {:>10} {:>10.3} {:>10.3}",
            device.name,
            device.target,
            "",
            "",
            "",
            grouped(measured.sent_bytes),
            grouped(measured.received_bytes),
            measured.compute_ms,
            measured.link_ms,
        );
    }
    let exchanged = |device: &DeviceReport| device.measured.as_ref().is_some_and(|measured| measured.sent_bytes > 0);
    if report.devices.iter().any(exchanged) {
        println!(
            "measured on this machine, over loopback: what the cluster file says of links is only in the prediction"
        );
    }
    for patch in &report.patches {
        println!(
            "{} computes {} to {} in {} patches: {:.1} % more multiply-adds there",
            patch.device,
            crate::diagnostic::printable(&patch.nodes.0),
            crate::diagnostic::printable(&patch.nodes.1),
            patch.tiles,
            (patch.macs.1 as f64 / patch.macs.0.max(1) as f64 - 1.0) * 100.0
        );
    }
    for run in &report.row_streaming {
        let (first, last) = (crate::diagnostic::printable(&run.nodes.0), crate::diagnostic::printable(&run.nodes.1));
        let what = if run.nodes.0 == run.nodes.1 { first } else { format!("{first} to {last}") };
        println!("{what} in {} bands: as many rows at a time are exchanged and computed", run.count);
    }
    if let Some(pieces) = report.overlap.as_ref() {
        let pieces = match pieces.len() {
            0 => String::new(),
            1 => "; of one node what others need is computed first".to_string(),
            count => format!("; of {count} nodes what others need is computed first"),
        };
        println!("tensors travel while devices compute{pieces}");
    }
    if report.devices.iter().any(|device| device.flash_bytes > 0) {
        println!("\n{:<12} {:>12} {:>12} {:>12}", "linked", "code B", "flash B", "RAM B");
        for device in &report.devices {
            println!(
                "{:<12} {:>12} {:>12} {:>12}",
                device.name,
                grouped(device.code_bytes),
                grouped(device.flash_bytes),
                grouped(device.ram_bytes)
            );
        }
    }
    if let Some(known) = &report.quantization {
        learned::quantization(known);
    }
    if let Some(calibration) = &report.calibration {
        learned::exits(report, calibration);
    }
    if let Some(family) = &report.family {
        learned::variants(report, family);
    }
    if let Some(evaluation) = &report.evaluation {
        println!(
            "\naccuracy {:.2} % of {} samples; measured latency {:.3} ms (predicted {:.3}), p50 {:.3} ms, p95 {:.3} ms, worst {:.3} ms; \
             energy {:.3} mJ (predicted {:.3})",
            evaluation.accuracy * 100.0,
            evaluation.samples,
            evaluation.mean_ms,
            evaluation.predicted_ms,
            evaluation.latency_ms.p50,
            evaluation.latency_ms.p95,
            evaluation.latency_ms.max,
            evaluation.measured_energy_mj,
            evaluation.mean_energy_mj
        );
    }
}

/// A number with thin groups: 12 345 678.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// What the loss of a device comes to, in a line.
fn survival_line(survival: &SurvivalReport, latency_ms: f64) -> String {
    let points = survival.single_points.iter().map(|point| match point.why {
        "bridge" => format!("{} (nothing else leads to the output)", point.device),
        why => format!("{} ({why})", point.device),
    });
    let points: Vec<String> = points.collect();
    let points = format!("without {} there is no answer", points.join(", "));
    if survival.losses.is_empty() {
        return format!("survive = 1: nobody else takes part; {points}");
    }
    let names: Vec<&str> = survival.losses.iter().map(|loss| loss.device.as_str()).collect();
    let worst_ms = survival.losses.iter().map(|loss| loss.latency_ms).fold(0.0, f64::max);
    let who = match names[..] {
        [one] => one.to_string(),
        _ => format!("any one of {}", names.join(", ")),
    };
    let weights = match survival.more_weights_bytes {
        0 => "no more weights".to_string(),
        bytes => format!("up to {} of weights more per device", size(bytes)),
    };
    let times = worst_ms / latency_ms.max(f64::MIN_POSITIVE);
    format!(
        "survive = 1: {who} may be lost; answers then take up to {worst_ms:.3} ms ({times:.2} times as long), the inference under way is computed again, for {weights}; {points}"
    )
}

/// What links do, in a line.
fn links_line(links: &LinksReport) -> String {
    let inputs = match (links.measured_on, links.samples) {
        ("noise", 1) => "one random input".to_string(),
        ("noise", count) => format!("{count} random inputs"),
        (_, 1) => "one calibration sample".to_string(),
        (_, count) => format!("{count} calibration samples"),
    };
    let limit = links.limit.map_or(String::new(), |limit| format!(", at most {limit:e} allowed"));
    let without = match (links.exact_latency_ms, links.exact_traffic_bytes) {
        (Some(latency_ms), Some(bytes)) => {
            format!("; with --link-error exact {latency_ms:.3} ms, {} B sent", grouped(bytes))
        }
        _ => String::new(),
    };
    let tensors = match links.tensors.len() {
        1 => "one tensor travels".to_string(),
        count => format!("{count} tensors travel"),
    };
    format!(
        "links: {tensors} in fewer bytes; answers change by {:.1e} of their largest element on {inputs}{limit}{without}",
        links.error
    )
}
