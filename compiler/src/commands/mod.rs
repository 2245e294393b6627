//! What the command line asks for, done in order: explain, compile, simulate, write, build, verify, run, evaluate, deploy.

mod build;
mod deploy;
mod evaluate;
mod infer;
mod learned;
mod measure;
mod print;
mod ready;
pub mod summary;
mod tune;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use partita_learn::progress::say;

use self::build::{build, folder_name, note};
use crate::cli::{Arguments, Format};
use crate::config::learned::Origin;
use crate::config::{self, Cluster, System};
use crate::diagnostic::Diagnostic;
use crate::driver::{self, Compiled, Dump, Failure, Options};
use crate::graph::{Graph, Value};
use crate::links::{self, LinkError};
use crate::{bundle, explain, simulate, usage};

/// The command line of this process: arguments in, exit status out.
pub fn main() -> ExitCode {
    let arguments = match usage::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return usage_error(&error),
    };
    let format = arguments.format;
    if let Err(error) = crate::interrupt::clear_on_signals() {
        complain(&Failure::Environment(error.into()), format);
        return ExitCode::FAILURE;
    }
    std::panic::set_hook(Box::new(move |panic| end_of_panic(panic.payload_as_str().unwrap_or("unknown"), format)));
    match execute(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure, format);
            ExitCode::from(failure.exit_status())
        }
    }
}

/// A panic is always our bug: says so in one line, and never leaves with a status that scripts read as success.
fn end_of_panic(message: &str, format: Format) {
    // Whoever reads our output has seen enough, as `head` does: no fault of ours.
    if message.contains("failed printing to stdout") {
        std::process::exit(0);
    }
    let failure = Failure::Internal(anyhow::anyhow!("panic: {message}"));
    complain(&failure, format);
    std::process::exit(failure.exit_status().into());
}

fn complain(failure: &Failure, format: Format) {
    let text = match format {
        Format::Human => failure.to_string(),
        Format::Json => failure_json(failure).to_string(),
    };
    // Nobody may be reading any more.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says what is wrong with the command line, or what was asked of it: help, the version.
fn usage_error(error: &clap::Error) -> ExitCode {
    // A script that asks for JSON gets it also where the rest was not understood.
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let is_json = words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
        || words.iter().any(|word| word == "--format=json");
    if is_json && error.use_stderr() {
        say(usage_json(error));
        return ExitCode::from(2);
    }
    // Where it goes, and with which status, clap knows.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Executes the command line. Results go to standard output, messages to standard error.
pub fn execute(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(code) = &arguments.explain {
        println!("{}", explain::explain(code).map_err(Failure::from)?);
        return Ok(());
    }
    let (Some(model), Some(targets)) = (&arguments.model, &arguments.targets) else {
        return Err(Failure::Environment(anyhow::anyhow!("a model and --targets are needed")));
    };
    if arguments.quiet {
        partita_learn::progress::silence();
    }
    if arguments.no_build_cache {
        bundle::cache::disable();
    }
    if arguments.status {
        return deploy::status(arguments, model, targets);
    }
    if arguments.undeploy {
        return deploy::undeploy(arguments, targets);
    }
    ready::check_files(arguments)?;
    if arguments.tune || arguments.measure {
        let cluster = config::cluster_file::read(targets)?;
        let emulated = ready::check_measuring(arguments, &cluster)?;
        ready::check_tools(arguments, &cluster.devices)?;
        let origin = Origin::now(model, emulated);
        return match arguments.tune {
            true => tune::tune(arguments, model, targets, origin),
            false => measure::measure(arguments, model, targets, origin),
        };
    }
    let mut onlooker = Onlooker { arguments, data: Data::default() };
    let compiled = driver::compile(model, targets, &Options::of(arguments), &mut onlooker)?;
    let data = onlooker.data;
    say_what_is_special(arguments, &compiled);
    let mut report = summary::report(&compiled);
    if arguments.simulate {
        return predict(arguments, &compiled, &data, &mut report);
    }
    if needs_build(arguments) {
        let taking_part =
            compiled.routed.placed.programs.iter().map(|program| &compiled.cluster.devices[program.device]);
        ready::check_tools(arguments, taking_part)?;
    }
    let mut deployment = if arguments.deploy { Some(crate::deploy::Deployment::look(&compiled)?) } else { None };
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("out").join(folder_name(&compiled)));
    bundle::write(&out, &compiled, &report).map_err(Failure::Environment)?;
    note(arguments, &format!("wrote {}", out.display()));
    let mut built = Vec::new();
    if needs_build(arguments) {
        built = build(arguments, &out, &compiled).map_err(Failure::Environment)?;
        for (program, built) in compiled.routed.placed.programs.iter().zip(&built) {
            summary::add_sizes(&mut report, &compiled.cluster.devices[program.device].name, &built.sizes);
        }
        bundle::write_report(&out, &report).map_err(Failure::Environment)?;
    }
    if arguments.verify {
        verify::verify(arguments, &compiled, &built)?;
    }
    if arguments.run {
        infer::run_once(arguments, &compiled, &built, data.input.as_deref(), &mut report)?;
    }
    if let Some(samples) = &data.evaluation {
        evaluate::evaluate(arguments, samples, &compiled, &built, &mut report)?;
    }
    if let Some(deployment) = &mut deployment {
        report.deployment = Some(deploy::deploy(arguments, &compiled, deployment, &built, &out)?);
    }
    if needs_build(arguments) {
        bundle::write_report(&out, &report).map_err(Failure::Environment)?;
    }
    print::report(&report, &compiled, arguments.format).map_err(Failure::Environment)?;
    if arguments.format == Format::Human {
        println!("bundle: {}", out.display());
        if let Some(states) = &report.deployment {
            deploy::print(arguments, states)?;
        }
    }
    Ok(())
}

/// A failure for programs: `{"schema": 1, "errors": [{"code", "message", "notes", "help"}], "status"}`.
pub fn failure_json(failure: &Failure) -> serde_json::Value {
    let plain = |code: &str, message: String| serde_json::json!({"code": code, "message": message});
    let one = |diagnostic: &Diagnostic| {
        serde_json::json!({
            "code": diagnostic.code,
            "message": diagnostic.message,
            "notes": diagnostic.notes,
            "help": diagnostic.help,
        })
    };
    let errors: Vec<serde_json::Value> = match failure {
        Failure::Input(diagnostics) => diagnostics.iter().map(one).collect(),
        Failure::Infeasible(diagnostic) | Failure::Difference(diagnostic) => vec![one(diagnostic)],
        Failure::Environment(error) => vec![plain("environment", format!("{error:#}"))],
        Failure::Internal(error) => vec![plain("internal", format!("{error:#}"))],
    };
    serde_json::json!({"schema": bundle::report::SCHEMA, "errors": errors, "status": failure.exit_status()})
}

/// A usage error for programs.
pub fn usage_json(error: &clap::Error) -> serde_json::Value {
    let text = error.to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or_default().trim_start_matches("error: ").trim();
    let errors = serde_json::json!([{"code": "usage", "message": message}]);
    serde_json::json!({"schema": bundle::report::SCHEMA, "errors": errors, "status": 2})
}

/// Whether programs are wanted, not only their source.
fn needs_build(arguments: &Arguments) -> bool {
    arguments.build || arguments.run || arguments.evaluate.is_some() || arguments.verify || arguments.deploy
}

/// With --simulate: what is known of the plan without its programs.
fn predict(
    arguments: &Arguments,
    compiled: &Compiled,
    data: &Data,
    report: &mut bundle::report::Report,
) -> Result<(), Failure> {
    if let Some(samples) = &data.evaluation {
        evaluate::evaluate_here(samples, compiled, report).map_err(Failure::of)?;
    }
    if let Some(path) = &arguments.timeline {
        let trace = simulate::trace_json(&compiled.routed.prediction, &compiled.cluster).to_string();
        write(path, &trace).map_err(Failure::Environment)?;
        note(arguments, &format!("wrote {}; open it at ui.perfetto.dev", path.display()));
    }
    if let Some(out) = &arguments.out {
        write_prediction(arguments, out, report).map_err(Failure::Environment)?;
    }
    print::report(report, compiled, arguments.format).map_err(Failure::Environment)
}

/// With --simulate, the report alone. That of a bundle stays: it is of what was built.
fn write_prediction(arguments: &Arguments, out: &Path, report: &bundle::report::Report) -> anyhow::Result<()> {
    if out.join("plan.pb").exists() {
        say(format_args!("warning: `{}` holds a bundle, whose report is left as it is", out.display()));
        return Ok(());
    }
    bundle::output::check(out)?;
    std::fs::create_dir_all(out).with_context(|| format!("creating `{}`", out.display()))?;
    bundle::write_report(out, report)?;
    note(arguments, &format!("wrote {}", out.join("report.json").display()));
    Ok(())
}

/// What the user might not expect of this compilation.
fn say_what_is_special(arguments: &Arguments, compiled: &Compiled) {
    compiled.warnings.iter().for_each(say);
    for file in &compiled.learned {
        note(arguments, &file.to_string());
    }
    for device in
        compiled.cluster.devices.iter().filter(|device| device.standalone && compiled.routed.variants.is_none())
    {
        note(arguments, &format!("`standalone` of {} says nothing without --variants auto", device.name));
    }
    let firmware = compiled.cluster.devices.iter().filter(|device| device.target.system == System::CortexM);
    for device in firmware.filter(|device| device.address.is_some()) {
        let name = &device.name;
        note(arguments, &format!("`address` of {name} says nothing: firmware speaks over its UARTs only"));
    }
    if !compiled.cluster.conditions.is_empty() && compiled.routed.variants.is_none() {
        note(arguments, "`[[condition]]` of the cluster file says nothing without --variants auto");
    }
    let asked = arguments.link_error.is_some_and(|error| error != LinkError::Exact);
    if let Some(why) = links::why_exact(&compiled.graph, &compiled.cluster).filter(|_| asked) {
        let samples = if arguments.calibration.is_some() { ", and the calibration samples serve nothing" } else { "" };
        say(format_args!("warning: --link-error changes nothing{samples}: {why}"));
    }
    if let Some(text) = summary::family_that_fell_back(compiled) {
        say(format_args!("warning: {text}"));
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing `{}`", path.display()))
}

/// Data files as the model wants them.
#[derive(Default)]
struct Data {
    /// Of --run, for one sample at a time also where --batch answers several.
    input: Option<Vec<Value>>,
    /// Of --evaluate.
    evaluation: Option<ready::Labelled>,
}

/// Prints the stages that --print-ir-after asks for, and reads the data as soon as the model is known.
struct Onlooker<'a> {
    arguments: &'a Arguments,
    data: Data,
}

impl Dump for Onlooker<'_> {
    fn stage(&mut self, name: &str, text: &dyn std::fmt::Display) {
        if self.arguments.verbose {
            say(format_args!("partita: {name} done"));
        }
        if self.arguments.print_ir_after.as_ref().is_some_and(|wanted| wanted == name || wanted == "all") {
            println!("; after {name}\n{text}");
        }
    }

    fn remark(&mut self, remark: &Diagnostic) {
        say(remark);
    }

    fn simplified(&mut self, graph: &Graph, cluster: &Cluster) -> Result<(), Failure> {
        if !self.arguments.simulate {
            bundle::identity::check(cluster).map_err(|problem| Failure::Input(vec![problem]))?;
        }
        if needs_build(self.arguments) {
            // These two take part whatever the plan; the others are looked at when it is known.
            ready::check_tools(self.arguments, [cluster.input, cluster.output].map(|index| &cluster.devices[index]))?;
        }
        ready::check_preparation(self.arguments, cluster)?;
        self.data.input = ready::input(self.arguments, graph).map_err(Failure::Environment)?;
        self.data.evaluation = ready::evaluation(self.arguments, graph)?;
        Ok(())
    }
}
