//! The report on a terminal.

use crate::bundle::report::{FamilyReport, Report};
use crate::cli::Format;
use crate::driver::Compiled;
use crate::exits::CalibrationReport;

/// Prints the report to standard output.
pub fn report(report: &Report, compiled: &Compiled, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(report)?),
        Format::Human => human(report, compiled),
    }
    Ok(())
}

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
    if !plan.proven.is_empty() {
        println!("proven: {} (gap {:.1} %)", plan.proven, plan.gap * 100.0);
    }
    if let Some(single) = plan.single_device_ms {
        let verdict = if compiled.programs.len() > 1 && single < plan.latency_ms {
            " - one device would answer sooner; the cluster buys throughput or memory"
        } else {
            ""
        };
        println!("best single device: {single:.3} ms{verdict}");
    }
    println!(
        "\n{:<12} {:<16} {:>14} {:>12} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "device", "target", "MAC", "weights B", "arena B", "sent B", "recv B", "compute ms", "link ms"
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
    for run in &report.stripes {
        let (first, last) = (crate::diagnostic::printable(&run.nodes.0), crate::diagnostic::printable(&run.nodes.1));
        let what = if run.nodes.0 == run.nodes.1 { first } else { format!("{first} to {last}") };
        println!("{what} in {} stripes: as many rows at a time are exchanged and computed", run.count);
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
    if let Some(calibration) = &report.calibration {
        print_exits(report, calibration);
    }
    if let Some(family) = &report.family {
        print_variants(report, family);
    }
    if let Some(evaluation) = &report.evaluation {
        println!(
            "\naccuracy {:.2} % of {} samples; latency {:.3} ms (predicted {:.3}), p50 {:.3} ms, p95 {:.3} ms, worst {:.3} ms; \
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

/// Each variant, and which is taken when.
fn print_variants(report: &Report, family: &FamilyReport) {
    println!(
        "\n{:<8} {:>6} {:>22} {:>16} {:>10} {:>14} {:>11} {:>12} {:>10}",
        "variant", "parts", "right (95 %)", "lost (90 %)", "evaluated", "MAC", "latency ms", "sent B", "energy mJ"
    );
    for variant in &report.variants {
        let (low, high) = variant.accuracy_range;
        let right = format!("{:.1} % ({:.1}-{:.1})", variant.accuracy * 100.0, low * 100.0, high * 100.0);
        let lost = format!("{:.1} % (<{:.1})", variant.loss * 100.0, variant.loss_bound * 100.0);
        let evaluated = variant.evaluated_accuracy.map_or("-".to_string(), |share| format!("{:.1} %", share * 100.0));
        println!(
            "{:<8} {:>6} {:>22} {:>16} {:>10} {:>14} {:>11.3} {:>12} {:>10.3}",
            variant.name,
            variant.dropped.len(),
            right,
            lost,
            evaluated,
            grouped(variant.macs),
            variant.latency_ms,
            grouped(variant.traffic_bytes),
            variant.energy_mj,
        );
    }
    if let Some(reason) = &family.only_whole {
        println!("{reason}");
    }
    println!("\nan answer should take {:.3} ms at most", family.max_latency_ms);
    let width = family.conditions.iter().map(|condition| condition.name.chars().count()).max().unwrap_or(0);
    for condition in &family.conditions {
        match condition.choices.iter().find(|choice| choice.taken) {
            None => println!(
                "{:<width$} nothing can be computed then; a `standalone` device with room for all weights could",
                condition.name
            ),
            Some(choice) => println!(
                "{:<width$} {:<6} {:>10.3} ms{}, {} B sent, on {}",
                condition.name,
                choice.variant,
                choice.latency_ms,
                if condition.in_time { "" } else { " (late)" },
                grouped(choice.traffic_bytes),
                choice.devices.join(", ")
            ),
        }
    }
    println!("variants make the weights of a device {:.2} % larger at most", family.more_flash * 100.0);
    if family.standalone_bytes > 0 {
        println!("to answer alone, a standalone device holds {} B more", grouped(family.standalone_bytes));
    }
}

/// Each exit, and what the calibration set says of all together.
fn print_exits(report: &Report, calibration: &CalibrationReport) {
    println!(
        "\n{:<12} {:<24} {:<12} {:>9} {:>7} {:>9} {:>14}",
        "exit on", "after", "rule", "from", "share", "accuracy", "MAC"
    );
    for exit in &report.exits {
        println!(
            "{:<12} {:<24} {:<12} {:>9.3} {:>6.1}% {:>8.2}% {:>14}",
            exit.device,
            crate::diagnostic::printable(&exit.after),
            format!("{:?}", exit.rule).to_lowercase(),
            exit.threshold,
            exit.share * 100.0,
            exit.accuracy * 100.0,
            grouped(exit.macs)
        );
    }
    if report.exits.is_empty() {
        println!("none: no exit keeps the accuracy, or none saves anything");
    }
    let saved = 1.0 - calibration.mean_macs as f64 / calibration.base_macs.max(1) as f64;
    println!(
        "calibration, {} samples: accuracy {:.2} % without exits, {:.2} % with them (loss below {:.2} points with 90 % \
         probability); {} MAC on average, {:.1} % less, at worst {}",
        calibration.samples,
        calibration.base_accuracy * 100.0,
        calibration.accuracy * 100.0,
        calibration.drop_bound * 100.0,
        grouped(calibration.mean_macs),
        saved * 100.0,
        grouped(calibration.worst_macs)
    );
}

/// A number with thin groups: 12 345 678.
fn grouped(number: u64) -> String {
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
