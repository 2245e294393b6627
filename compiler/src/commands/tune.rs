//! `--tune`: runs the model on the cluster's devices with every convolution done in one of its alternatives after the
//! other, and writes which was quickest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::build::{folder_name, note};
use super::measure::profiled;
use crate::cli::Arguments;
use crate::config;
use crate::config::learned::Origin;
use crate::config::tuned::{Choice, MOST_ALTERNATIVES, TunedConvolution, default_path};
use crate::driver::{self, Compiled, Failure, Options};
use crate::program::Step;

/// An alternative must be quicker than the estimated best by this factor: measurements vary.
const WORTH: f64 = 1.03;

/// Inferences per alternative; the first is not counted.
const RUNS: usize = 31;

/// A kind of device and a convolution: target, threads, shape.
type Subject = (String, usize, String);

/// What was measured of a convolution.
#[derive(Default)]
struct Timings {
    /// The alternative that estimates say is best, and every one's least median in microseconds.
    estimated: Option<Choice>,
    alternatives: Vec<(Choice, f64)>,
}

/// Measures and writes the record.
pub(super) fn tune(arguments: &Arguments, model: &Path, targets: &Path, origin: Origin) -> Result<(), Failure> {
    let path = arguments.tuned.clone().unwrap_or_else(|| default_path(targets));
    let mut record = config::tuned::read(&path, false)?;
    record.origin = Some(origin);
    let mut seen: BTreeMap<Subject, Timings> = BTreeMap::new();
    // As estimated first, then each alternative.
    let mut before_ms = 0.0;
    for trial in std::iter::once(usize::MAX).chain(0..MOST_ALTERNATIVES) {
        let options = Options { trial: Some(trial), ..Options::of(arguments) };
        let compiled = driver::compile(model, targets, &options, &mut ())?;
        let is_first = trial == usize::MAX;
        if !is_first && !has_new_alternative(&compiled, &seen) {
            continue;
        }
        let latency_ms = measure(arguments, &compiled, is_first, &mut seen).map_err(Failure::Environment)?;
        if is_first {
            before_ms = latency_ms;
            note(arguments, &format!("as estimated: {latency_ms:.3} ms"));
        } else {
            note(arguments, &format!("alternative {} of every convolution: {latency_ms:.3} ms", trial + 1));
        }
    }
    for (subject, seen) in &seen {
        let Some(entry) = best(subject, seen) else { continue };
        record
            .convolution
            .retain(|known| (&known.target, known.threads, &known.shape) != (&subject.0, subject.1, &subject.2));
        record.convolution.push(entry);
    }
    let text = toml::to_string(&record).map_err(|error| Failure::Internal(error.into()))?;
    let head = "# Written by compile --tune: the quickest kernel for each convolution, by kind of device.\n\n";
    std::fs::write(&path, head.to_string() + &text)
        .with_context(|| format!("writing {}", path.display()))
        .map_err(Failure::Environment)?;
    let options = Options { tuned: Some(path.clone()), ..Options::of(arguments) };
    let compiled = driver::compile(model, targets, &options, &mut ())?;
    let after_ms = measure(arguments, &compiled, false, &mut BTreeMap::new()).map_err(Failure::Environment)?;
    print(&seen);
    println!("whole model: {before_ms:.3} ms as estimated, {after_ms:.3} ms tuned");
    println!("wrote {}", path.display());
    Ok(())
}

/// The kernels of a device that have alternatives: index of the step, subject, alternative.
fn subjects(compiled: &Compiled) -> Vec<(usize, usize, Subject, Choice)> {
    let mut found = Vec::new();
    for (position, program) in compiled.routed.placed.programs.iter().enumerate() {
        let target = &compiled.cluster.devices[program.device].target;
        for (index, step) in program.steps.iter().enumerate() {
            let Step::Kernel { kernel, .. } = step else { continue };
            let Some((shape, choice)) = &program.kernels[*kernel].alternative else { continue };
            let subject = (target.name.clone(), target.threads, shape.clone());
            found.push((position, index, subject, choice.clone()));
        }
    }
    found
}

fn has_new_alternative(compiled: &Compiled, seen: &BTreeMap<Subject, Timings>) -> bool {
    subjects(compiled).iter().any(|(_, _, subject, choice)| {
        seen.get(subject).is_none_or(|seen| seen.alternatives.iter().all(|(other, _)| other != choice))
    })
}

/// Builds and runs one compilation, and adds what its convolutions took. Gives the median latency.
fn measure(
    arguments: &Arguments,
    compiled: &Compiled,
    is_estimate: bool,
    seen: &mut BTreeMap<Subject, Timings>,
) -> anyhow::Result<f64> {
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("out").join(folder_name(compiled)));
    let (latency_ms, profiles) = profiled(arguments, compiled, &out, (RUNS, 0.0))?;
    for (program, step, subject, choice) in subjects(compiled) {
        let mut times: Vec<u64> = profiles[program].iter().filter_map(|profile| profile.get(step).copied()).collect();
        times.sort_unstable();
        let Some(median) = times.get(times.len() / 2) else { continue };
        let microseconds = *median as f64 * 1e-3;
        let seen = seen.entry(subject).or_default();
        if is_estimate {
            seen.estimated.get_or_insert(choice.clone());
        }
        match seen.alternatives.iter_mut().find(|(other, _)| *other == choice) {
            Some((_, known)) => *known = known.min(microseconds),
            None => seen.alternatives.push((choice, microseconds)),
        }
    }
    Ok(latency_ms)
}

/// What goes to the record.
fn best((target, threads, shape): &Subject, seen: &Timings) -> Option<TunedConvolution> {
    let estimated = seen.estimated.as_ref()?;
    let (_, estimated_us) = seen.alternatives.iter().find(|(choice, _)| choice == estimated)?;
    let (choice, microseconds) = seen.alternatives.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let (choice, microseconds) =
        if microseconds * WORTH < *estimated_us { (choice, microseconds) } else { (estimated, estimated_us) };
    Some(TunedConvolution {
        target: target.clone(),
        threads: *threads,
        shape: shape.clone(),
        choice: choice.clone(),
        microseconds: *microseconds,
        estimated_best_microseconds: *estimated_us,
    })
}

fn print(seen: &BTreeMap<Subject, Timings>) {
    println!("{:>9} {:>9}   convolution", "estimated", "tuned us");
    for (subject, seen) in seen {
        let Some(entry) = best(subject, seen) else { continue };
        let changed = seen.estimated.as_ref() != Some(&entry.choice);
        let alternative = if changed {
            format!("; {}, {} vectors to a tile", entry.choice.form, entry.choice.vectors)
        } else {
            String::new()
        };
        println!(
            "{:>9.1} {:>9.1}   {}: {}{alternative}",
            entry.estimated_best_microseconds, entry.microseconds, subject.0, subject.2
        );
    }
}
