//! What was learned from samples, on a terminal: exits and variants.

use partita_learn::progress::say;

use super::print::grouped;
use crate::accuracy::{ClassLoss, Evidence, Limits};
use crate::bundle::report::{FamilyReport, Report};
use crate::confidence;
use crate::diagnostic::printable;
use crate::exits::CalibrationReport;
use crate::exits::report::Outcome;
use crate::quantize::report::{QuantizationReport, QuantizedLayer};

/// Warns of classes that pay for the others, on standard error.
pub(super) fn warn(report: &Report) {
    for warning in warnings(report) {
        say(format_args!("warning: {warning}"));
    }
}

fn warnings(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(calibration) = report.calibration.as_ref().filter(|known| known.limits.max_class_loss.is_none()) {
        let allowed = calibration.limits.allowed_loss(calibration.base_accuracy);
        found.extend(calibration.overcharged_classes.iter().map(|class| overcharged("exits", class, allowed)));
    }
    let quantized = report.quantization.as_ref().and_then(|known| known.accuracy.as_ref());
    if let Some(accuracy) = quantized.filter(|known| known.limits.max_class_loss.is_none()) {
        let allowed = accuracy.limits.allowed_loss(accuracy.base);
        found.extend(accuracy.overcharged_classes.iter().map(|class| overcharged("quantization", class, allowed)));
    }
    let family = report.family.as_ref().filter(|family| family.limits.max_class_loss.is_none());
    for variant in report.variants.iter().filter(|variant| family.is_some() && variant.compiled) {
        let who = format!("variant {}", variant.name);
        found.extend(variant.overcharged_classes.iter().map(|class| overcharged(&who, class, variant.allowed_loss)));
    }
    found
}

fn overcharged(who: &str, class: &ClassLoss, allowed: f64) -> String {
    format!(
        "{who}: class {} loses {:.2} points ({} samples), more than three times the {:.2} that all together may lose; \
         --max-class-loss limits each class",
        class.class,
        class.loss * 100.0,
        class.samples,
        allowed * 100.0
    )
}

/// The classes that lose most, in a line; none if no class loses anything.
fn worst(classes: &[ClassLoss]) -> Option<String> {
    let of = |class: &ClassLoss| {
        let (loss, bound) = (class.loss * 100.0, class.loss_bound * 100.0);
        format!("class {} {loss:.2} points (below {bound:.2}; {} samples)", class.class, class.samples)
    };
    let all: Vec<String> = classes.iter().map(of).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// What whole numbers do to answers, and each layer that is not computed in them.
pub(super) fn quantization(known: &QuantizationReport) {
    let (whole, all) = (known.layers.iter().filter(|layer| layer.numbers == "int8").count(), known.layers.len());
    println!(
        "\nquantized to {}: {whole} of {all} layers; ranges by {} of {} samples{}; weights {} B instead of {}, activations {} B \
         instead of {}",
        known.numbers,
        known.ranges.name(),
        known.samples,
        if known.equalized { ", channels of neighbouring layers made alike" } else { "" },
        grouped(known.weights_bytes),
        grouped(known.real_weights_bytes),
        grouped(known.activations_bytes),
        grouped(known.real_activations_bytes),
    );
    let noise = known.signal_to_noise_db;
    match &known.accuracy {
        None => println!("{} other samples: signal to noise of the answer {noise:.1} dB", known.judging_samples),
        Some(accuracy) => {
            let (low, high) = accuracy.quantized_range;
            println!(
                "{} other samples: accuracy {:.2} % in real numbers, {:.2} % ({:.1}-{:.1}) now: {:.2} points lost (less than {:.2} \
                 with 90 % probability; limit {}, {}); signal to noise of the answer {noise:.1} dB",
                known.judging_samples,
                accuracy.base * 100.0,
                accuracy.quantized * 100.0,
                low * 100.0,
                high * 100.0,
                accuracy.loss * 100.0,
                accuracy.loss_bound * 100.0,
                accuracy.limits.options(),
                if accuracy.limits_by_hand { "chosen by hand" } else { "the default, on these samples" },
            );
            if !accuracy.labelled {
                println!("right is what real numbers answer: the calibration data has no labels");
            }
            if let Some(classes) = worst(&accuracy.worst_classes) {
                println!("classes that lose most: {classes}");
            }
            if let Some(holdout) = &accuracy.holdout {
                println!("{}", holdout.sentence());
            }
        }
    }
    for layer in known.layers.iter().filter(|layer| layer.numbers != "int8") {
        let why = layer.why.as_deref().unwrap_or_default();
        println!("{} ({}) in f32: {why}", printable(&layer.node), layer.op);
    }
    let noisy = |layer: &&QuantizedLayer| layer.signal_to_noise_db.is_some();
    let decibel = |layer: &QuantizedLayer| layer.signal_to_noise_db.unwrap_or(f64::INFINITY);
    if let Some(layer) = known.layers.iter().filter(noisy).min_by(|a, b| decibel(a).total_cmp(&decibel(b))) {
        println!("least signal to noise of a layer's result: {:.1} dB, of {}", decibel(layer), printable(&layer.node));
    }
}

/// Each exit, and what the calibration set says of all together.
pub(super) fn exits(report: &Report, calibration: &CalibrationReport) {
    if report.exits.is_empty() {
        println!("\nno exits: {}", why_none(calibration));
    } else {
        println!(
            "\n{:<12} {:<24} {:<12} {:>9} {:>7} {:>9} {:>14}",
            "exit on", "after", "rule", "from", "share", "accuracy", "MAC"
        );
    }
    for exit in &report.exits {
        println!(
            "{:<12} {:<24} {:<12} {:>9.3} {:>6.1}% {:>8.2}% {:>14}",
            exit.device,
            printable(&exit.after),
            format!("{:?}", exit.rule).to_lowercase(),
            exit.threshold,
            exit.share * 100.0,
            exit.accuracy * 100.0,
            grouped(exit.macs)
        );
    }
    let base = calibration.base_accuracy * 100.0;
    if report.exits.is_empty() {
        println!("calibration, {} samples: accuracy {base:.2} %", calibration.samples);
    } else {
        println!(
            "calibration, {} samples: accuracy {base:.2} % without exits, {:.2} % with them: {:.2} points lost (less than {:.2} \
             with 90 % probability; limit {}, {}); {} MAC on average, {:.1} % less, at worst {}",
            calibration.samples,
            calibration.accuracy * 100.0,
            calibration.loss * 100.0,
            calibration.drop_bound * 100.0,
            calibration.limits.options(),
            if calibration.limits_by_hand { "chosen by hand" } else { "the default" },
            grouped(calibration.mean_macs),
            less(calibration.mean_macs, calibration.base_macs),
            grouped(calibration.worst_macs)
        );
        if let Some(classes) = worst(&calibration.worst_classes) {
            println!("classes that lose most: {classes}");
        }
    }
    if let Some(holdout) = &calibration.holdout {
        println!("{}", holdout.sentence());
    }
}

/// By how many percent a number is less than another.
fn less(now: u64, before: u64) -> f64 {
    (1.0 - now as f64 / before.max(1) as f64) * 100.0
}

/// Why there are no exits, and what to do.
fn why_none(calibration: &CalibrationReport) -> String {
    let (wanted, best) = (calibration.limits.options(), calibration.provable.rounded().options());
    match calibration.outcome {
        Outcome::TooFewSamples => {
            let gap = calibration.holdout.map_or(0.0, |holdout| holdout.widened_by);
            let samples = calibration.samples;
            let needed = match least_samples(&calibration.limits, gap) {
                Some(least) if calibration.limits.max_class_loss.is_some() => {
                    format!("; it takes {least} at least, and as many of each class for what a class may lose")
                }
                Some(least) => format!("; it takes {least} at least"),
                None => "; no number of samples would".to_string(),
            };
            format!("{samples} samples prove {best} at best, not {wanted}{needed}. Nothing was trained")
        }
        Outcome::NoExitKeepsTheLimits => {
            let mut text = format!("no exit that saves anything is proven to keep {wanted}");
            if let Some(nearest) = &calibration.nearest {
                text += &format!(
                    "; the nearest limit that can be proven is {}, with {:.1} % less MAC on average",
                    nearest.limits.options(),
                    less(nearest.mean_macs, calibration.base_macs)
                );
                text += &nearest.samples.map_or(
                    "; no number of samples like these would do for the limit itself, since more than that is lost".to_string(),
                    |samples| format!("; {samples} samples that say the same would do for the limit itself"),
                );
            }
            text
        }
        Outcome::NoExitSaves | Outcome::Exits => {
            "none saves anything here, whatever may be lost: heads, and messages of their verdicts, cost as much as what they \
             spare"
                .to_string()
        }
    }
}

/// How many samples can prove limits at best: where all answers are right, and none changes. None if no number can.
fn least_samples(limits: &Limits, gap: f64) -> Option<usize> {
    let losses = [limits.max_loss, limits.max_class_loss].into_iter().flatten();
    let by_loss = losses.map(|limit| confidence::samples_for(limit - gap));
    let one = Evidence::unchanged(&[true], &[0], 1);
    let accuracy = Limits { max_loss: None, max_class_loss: None, ..*limits };
    by_loss.chain([one.samples_for(&accuracy, gap)]).try_fold(1, |most, needed| Some(most.max(needed?)))
}

/// Each variant, and which is taken when.
pub(super) fn variants(report: &Report, family: &FamilyReport) {
    println!(
        "\n{:<8} {:>6} {:>22} {:>16} {:>10} {:>14} {:>11} {:>12} {:>10} {:>10} {:>10}",
        "variant",
        "parts",
        "right (95 %)",
        "lost (90 %)",
        "evaluated",
        "MAC",
        "latency ms",
        "sent B",
        "energy mJ",
        "sent less",
        "time less"
    );
    let share = |share: Option<f64>| share.map_or("-".to_string(), |share| format!("{:.1} %", share * 100.0));
    for variant in &report.variants {
        let (low, high) = variant.accuracy_range;
        let right = format!("{:.1} % ({:.1}-{:.1})", variant.accuracy * 100.0, low * 100.0, high * 100.0);
        let lost = format!("{:.1} % (<{:.1})", variant.loss * 100.0, variant.loss_bound * 100.0);
        println!(
            "{:<8} {:>6} {:>22} {:>16} {:>10} {:>14} {:>11.3} {:>12} {:>10.3} {:>10} {:>10}",
            variant.name,
            variant.dropped.len(),
            right,
            lost,
            share(variant.evaluated_accuracy),
            grouped(variant.macs),
            variant.latency_ms,
            grouped(variant.traffic_bytes),
            variant.energy_mj,
            share(variant.gain.less_traffic_at_equal_latency),
            share(variant.gain.less_latency_at_equal_traffic),
        );
    }
    if report.variants.len() > 1 {
        println!(
            "sent less: than the whole network where it may take as long and 5 % more; time less: than the whole network where \
             it sends no more; each at most, where everything is as the cluster file says"
        );
        if let Some(predicted) = exits_beside(report) {
            println!("{predicted}");
        }
    }
    for variant in report.variants.iter().filter(|variant| variant.compiled) {
        if let Some(classes) = worst(&variant.worst_classes) {
            println!("classes that lose most by {}: {classes}", variant.name);
        }
    }
    if let Some(holdout) = &family.holdout {
        println!("{}", holdout.sentence());
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

/// What exits give where they were computed, too.
fn exits_beside(report: &Report) -> Option<String> {
    let predicted = report.calibration.as_ref()?.predicted.as_ref().filter(|_| !report.exits.is_empty())?;
    let less = (1.0 - predicted.with_exits / predicted.without_exits.max(1e-12)) * 100.0;
    Some(format!(
        "beside: exits, which the whole network has here too, save {less:.1} % of its {}",
        predicted.objective
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_some_number_of_samples_proves_say_which() {
        let limits = |max_loss, min_accuracy, max_class_loss| Limits { max_loss, min_accuracy, max_class_loss };
        assert_eq!(least_samples(&limits(Some(0.01), None, None), 0.0), Some(128));
        assert_eq!(least_samples(&limits(Some(0.02), None, Some(0.01)), 0.0), Some(128));
        assert!(least_samples(&limits(None, Some(0.99), None), 0.0).is_some_and(|samples| samples > 100));
        for (limits, gap) in [
            (limits(Some(0.0), None, None), 0.0),
            (limits(Some(0.01), None, None), 0.02),
            (limits(None, Some(1.0), None), 0.0),
        ] {
            assert_eq!(least_samples(&limits, gap), None, "{limits:?}");
        }
    }
}
