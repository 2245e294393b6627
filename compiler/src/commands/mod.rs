//! What the command line asks for, done in order: explain, compile, simulate, write, build, run, evaluate, verify.

mod evaluate;
mod infer;
mod learned;
mod measure;
mod print;
pub mod summary;
mod tune;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::bundle;
use crate::bundle::cargo::{BuildOptions, BuiltDevice};
use crate::cli::{Arguments, Format};
use crate::config::Device;
use crate::diagnostic;
use crate::driver::{self, Compiled, Dump, Failure, Options};

/// The command line of this process: arguments in, exit status out.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic is always our bug: say so in one line, and never leave with a status that scripts read as success.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(|| execute(&arguments));
    let failure = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(failure)) => failure,
        Err(payload) => {
            let message = payload
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()))
                .unwrap_or_else(|| "unknown".to_string());
            // Whoever reads our output has seen enough, as `head` does: no fault of ours.
            if message.contains("failed printing to stdout") {
                return ExitCode::SUCCESS;
            }
            Failure::Internal(anyhow::anyhow!("panic: {message}"))
        }
    };
    eprintln!("{failure}");
    ExitCode::from(failure.exit_status())
}

/// Executes the command line. Results go to standard output, messages to standard error.
pub fn execute(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(code) = &arguments.explain {
        println!("{}", diagnostic::explain(code).map_err(Failure::from)?);
        return Ok(());
    }
    let (Some(model), Some(targets)) = (&arguments.model, &arguments.targets) else {
        return Err(Failure::Environment(anyhow::anyhow!("a model and --targets are needed")));
    };
    if arguments.no_build_cache {
        bundle::cache::disable();
    }
    if arguments.tune {
        return tune::tune(arguments, model, targets);
    }
    if arguments.measure {
        return measure::measure(arguments, model, targets);
    }
    let mut dump =
        Printer { wanted: arguments.print_ir_after.as_deref(), verbose: arguments.verbose, seen: Vec::new() };
    let compiled = driver::compile(model, targets, &Options::of(arguments), &mut dump)?;
    dump.check_name()?;
    compiled.warnings.iter().for_each(|warning| eprintln!("{warning}"));
    for device in compiled.cluster.devices.iter().filter(|device| device.standalone && compiled.variants.is_none()) {
        note(arguments, &format!("`standalone` of {} says nothing without --variants auto", device.name));
    }
    let mut report = summary::report(&compiled);
    if arguments.simulate {
        if let Some(data) = &arguments.evaluate {
            evaluate::evaluate_here(arguments, data, &compiled, &mut report)?;
        }
        return print::report(&report, &compiled, arguments.format).map_err(Failure::Environment);
    }
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("out").join(folder_name(&compiled)));
    bundle::write(&out, &compiled, &report).map_err(Failure::Environment)?;
    note(arguments, &format!("wrote {}", out.display()));
    let needs_build = arguments.build || arguments.run || arguments.evaluate.is_some() || arguments.verify;
    let mut built = Vec::new();
    if needs_build {
        built = build(arguments, &out, &compiled).map_err(Failure::Environment)?;
        for (program, built) in compiled.programs.iter().zip(&built) {
            summary::add_sizes(&mut report, &compiled.cluster.devices[program.device].name, &built.sizes);
        }
        bundle::write_report(&out, &report).map_err(Failure::Environment)?;
    }
    if arguments.verify {
        verify::verify(arguments, &compiled, &built)?;
    }
    if arguments.run {
        infer::run_once(arguments, &compiled, &built, &mut report)?;
    }
    if let Some(data) = &arguments.evaluate {
        evaluate::evaluate(arguments, data, &compiled, &built, &mut report)?;
    }
    if needs_build {
        bundle::write_report(&out, &report).map_err(Failure::Environment)?;
    }
    print::report(&report, &compiled, arguments.format).map_err(Failure::Environment)?;
    if arguments.format == Format::Human {
        println!("bundle: {}", out.display());
    }
    Ok(())
}

/// Builds all programs of a bundle.
fn build(arguments: &Arguments, out: &Path, compiled: &Compiled) -> anyhow::Result<Vec<BuiltDevice>> {
    let devices: Vec<&Device> =
        compiled.programs.iter().map(|program| &compiled.cluster.devices[program.device]).collect();
    for device in &devices {
        note(arguments, &format!("building {} for {}", device.name, device.target.name));
    }
    let options = BuildOptions { verbose: arguments.verbose, symbols: arguments.symbols };
    bundle::cargo::build_devices(out, &devices, options)
}

/// The model's name as a folder: letters, digits, `-`, `_`, `.`.
fn folder_name(compiled: &Compiled) -> String {
    let name: String = compiled
        .model_name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect();
    if name.chars().all(|c| c == '.') { "model".to_string() } else { name }
}

/// Progress, on standard error; quiet with --format json unless -v.
fn note(arguments: &Arguments, message: &str) {
    if arguments.format == Format::Human || arguments.verbose {
        eprintln!("partita: {message}");
    }
}

/// Prints the stages that --print-ir-after asks for.
struct Printer<'a> {
    wanted: Option<&'a str>,
    verbose: bool,
    seen: Vec<String>,
}

impl Dump for Printer<'_> {
    fn stage(&mut self, name: &str, text: &dyn std::fmt::Display) {
        self.seen.push(name.to_string());
        if self.verbose {
            eprintln!("partita: {name} done");
        }
        if self.wanted.is_some_and(|wanted| wanted == name || wanted == "all") {
            println!("; after {name}\n{text}");
        }
    }

    fn remark(&mut self, remark: &diagnostic::Diagnostic) {
        eprintln!("{remark}");
    }
}

impl Printer<'_> {
    fn check_name(&self) -> Result<(), Failure> {
        match self.wanted {
            Some(wanted) if wanted != "all" && !self.seen.iter().any(|name| name == wanted) => {
                Err(Failure::Environment(anyhow::anyhow!(
                    "there is no stage `{wanted}` to print after; there are {}",
                    self.seen.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }
}
