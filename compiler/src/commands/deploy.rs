//! `--deploy`, `--status` and `--undeploy`: the cluster on its machines.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::build::note;
use super::infer::noise_inputs;
use super::verify::{allowed_difference, difference};
use crate::bundle::cargo::BuiltDevice;
use crate::cli::{Arguments, Format};
use crate::config::cluster_file;
use crate::deploy::state::{DeviceState, table};
use crate::deploy::{Deployment, Machine, remove, states};
use crate::diagnostic::Diagnostic;
use crate::driver::{Compiled, Failure};
use crate::graph::{Value, eval};
use crate::run::local::{pack, unpack};
use partita_learn::progress::say;
use partita_rt::hosted::client::Client;
use partita_rt::node::Outcome;

/// How long a new version may take until it answers, beside what its inferences take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a slow network's predicted latency is waited for.
const LATENCIES: f64 = 20.0;

/// How long one try may take.
const TRY: Duration = Duration::from_secs(3);

/// Installs what was built, switches to it, and back if it does not answer; what every device says afterwards.
pub(super) fn deploy(
    arguments: &Arguments,
    compiled: &Compiled,
    deployment: &mut Deployment,
    built: &[BuiltDevice],
    out: &Path,
) -> Result<Vec<DeviceState>, Failure> {
    note(arguments, "carrying programs to the devices");
    deployment.carry(compiled, built, out)?;
    note(arguments, &format!("switching to plan {:016x}", compiled.plan_hash));
    let answered = match deployment.switch() {
        Ok(()) => await_answer(arguments, compiled),
        Err(problems) => Err(Failure::Input(problems)),
    };
    if let Err(failure) = answered {
        return Err(roll_back(compiled, deployment, failure));
    }
    for device in deployment.retired() {
        note(arguments, &format!("{device} has no part in this plan: what was installed there is removed"));
    }
    deployment.tidy().iter().for_each(|problem| say(format_args!("warning: {problem}")));
    Ok(states(&compiled.cluster))
}

/// Puts everything back; why, with what every device said.
fn roll_back(compiled: &Compiled, deployment: &Deployment, failure: Failure) -> Failure {
    let seen = states(&compiled.cluster);
    let left = deployment.go_back();
    let done = match (deployment.replaces(), left.is_empty()) {
        (true, true) => "all devices run their old versions again",
        (false, true) => "nothing ran there before: it was removed again",
        (_, false) => "not all devices could be brought back:",
    };
    let add = |diagnostic: Diagnostic| {
        let with_states = table(&seen).lines().fold(diagnostic, |diagnostic, line| diagnostic.note(line));
        left.iter().fold(with_states.note(done), |diagnostic, problem| diagnostic.note(problem.message.clone()))
    };
    match failure {
        Failure::Difference(diagnostic) => Failure::Difference(add(diagnostic)),
        Failure::Input(mut diagnostics) if !diagnostics.is_empty() => {
            let last = diagnostics.pop().into_iter().map(add);
            Failure::Input(diagnostics.into_iter().chain(last).collect())
        }
        other => Failure::Input(vec![add(Diagnostic::new("E0701", other.to_string()))]),
    }
}

/// Waits until the cluster answers an input that is handed to the device which holds it, as the reference kernels do.
fn await_answer(arguments: &Arguments, compiled: &Compiled) -> Result<(), Failure> {
    let graph = &compiled.graph;
    let cluster = &compiled.cluster;
    let given = noise_inputs(graph, 1);
    let input = pack(graph, graph.given_inputs(), &given).map_err(Failure::Environment)?;
    // Behind what is given and returned stand states, which are zero at first.
    let states: Vec<Value> = graph.state_pairs().map(|(_, state)| Value::zeros(graph.tensor_type(state))).collect();
    let inputs = [given.as_slice(), &states].concat();
    let mut expected = eval::evaluate(graph, &inputs).map_err(|error| Failure::Internal(error.into()))?;
    expected.truncate(graph.returned_outputs().len());
    let output_bytes = pack(graph, graph.returned_outputs(), &expected).map_err(Failure::Environment)?.len();
    let latency = Duration::from_secs_f64(compiled.routed.prediction.latency_ms.clamp(0.0, 600e3) * 1e-3);
    let patience = PATIENCE + latency.mul_f64(LATENCIES);
    let machine = |index: usize| Machine::of(cluster, &cluster.devices[index]);
    let (Some(input_at), Some(output_at)) = (machine(cluster.input), machine(cluster.output)) else {
        return Err(Failure::Environment(anyhow::anyhow!("the devices with input and output have no address")));
    };
    let output_at = (cluster.input != cluster.output).then_some(output_at);
    let begun = Instant::now();
    let mut why = String::new();
    while begun.elapsed() < patience {
        let answer = ask(compiled.plan_hash, &input_at, output_at.as_ref(), &input, output_bytes, TRY + 2 * latency);
        match answer {
            Ok((outcome, answer)) => {
                note(
                    arguments,
                    &format!("the cluster answers, {:.1} s after the switch", begun.elapsed().as_secs_f64()),
                );
                // Exits and variants say something else than the whole network.
                if outcome != Outcome::Full {
                    return Ok(());
                }
                let allowed = allowed_difference(compiled);
                let outputs = unpack(graph, &answer).map_err(Failure::Environment)?;
                for ((name, found), expected) in outputs.iter().zip(&expected) {
                    difference(name, found, expected, allowed).map_err(Failure::Difference)?;
                }
                return Ok(());
            }
            Err(error) => why = error,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let message = format!("the cluster does not answer within {} s: {why}", patience.as_secs());
    let help = "see what the devices say below; `address` has to be where peers reach them, and its port free";
    Err(Failure::Input(vec![Diagnostic::new("E0701", message).help(help)]))
}

/// One input and its answer.
fn ask(
    plan_hash: u64,
    input_at: &Machine,
    output_at: Option<&Machine>,
    input: &[u8],
    output_bytes: usize,
    budget: Duration,
) -> Result<(Outcome, Vec<u8>), String> {
    let told = |error: std::io::Error| error.to_string();
    let (_input_carrier, input_stream) = input_at.talk().map_err(told)?;
    let (_output_carrier, output_stream) = output_at.map(Machine::talk).transpose().map_err(told)?.unzip();
    let client = Client::over(plan_hash, input_stream, output_stream, budget);
    let mut client = client.map_err(|error| format!("the devices with input and output are not there: {error}"))?;
    let mut output = vec![0; output_bytes];
    // States are zero for this input, and for the first of whoever uses the cluster.
    let mut infer = || {
        client.reset_states()?;
        let record = client.infer(input, &mut output)?;
        client.reset_states().map(|()| record)
    };
    let record = infer().map_err(|error| error.to_string())?;
    match record.outcome {
        Outcome::Full | Outcome::Exit(..) | Outcome::Variant(..) => Ok((record.outcome, output)),
        Outcome::Late => Err("an input was not answered in time".to_string()),
        Outcome::Failed(why) => Err(format!("an input has failed: {why:?}")),
    }
}

/// `--status`: prints what every device says.
///
/// Errors (E0702): no device is installed, or one that is does not answer.
pub(super) fn status(arguments: &Arguments, model: &Path, targets: &Path) -> Result<(), Failure> {
    let cluster = cluster_file::read(targets)?;
    let states = states(&cluster);
    print(arguments, &states)?;
    let of = |wanted: &'static str| {
        states.iter().filter(move |state| state.state == wanted).map(|state| state.device.as_str())
    };
    if let Some(hash) = plan_of_bundle(arguments, model) {
        let has_other =
            |state: &&DeviceState| state.version.as_ref().is_some_and(|version| !version.starts_with(&hash));
        let others: Vec<&str> = states.iter().filter(has_other).map(|state| state.device.as_str()).collect();
        if !others.is_empty() {
            note(arguments, &format!("{} run another plan than that of the bundle, {hash}", others.join(", ")));
        }
    }
    let silent: Vec<&str> = of("not answering").chain(of("unreached")).collect();
    match (silent.is_empty(), of("running").next()) {
        (true, Some(_)) => Ok(()),
        (true, None) => Err(Failure::Input(vec![
            Diagnostic::new("E0702", "nothing is installed on the devices").help("install it with --deploy"),
        ])),
        (false, _) => {
            let message = format!("`{}` cannot be reached, or runs and does not answer", silent.join("`, `"));
            Err(Failure::Input(vec![Diagnostic::new("E0702", message)]))
        }
    }
}

/// The plan of the bundle that these arguments would write, if there is one.
fn plan_of_bundle(arguments: &Arguments, model: &Path) -> Option<String> {
    let default = || Some(PathBuf::from("out").join(model.file_stem()?));
    let report = std::fs::read(arguments.out.clone().or_else(default)?.join("report.json")).ok()?;
    let report: serde_json::Value = serde_json::from_slice(&report).ok()?;
    Some(report["plan"]["hash"].as_str()?.to_string())
}

/// `--undeploy`: removes what was installed, and says from where.
pub(super) fn undeploy(arguments: &Arguments, targets: &Path) -> Result<(), Failure> {
    let removed = remove(&cluster_file::read(targets)?)?;
    match arguments.format {
        Format::Json => println!("{}", serde_json::json!({ "removed": removed })),
        Format::Human if removed.is_empty() => println!("nothing was installed"),
        Format::Human => println!("removed from {}", removed.join(", ")),
    }
    Ok(())
}

/// States as the user wants them.
pub(super) fn print(arguments: &Arguments, states: &[DeviceState]) -> Result<(), Failure> {
    match arguments.format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&states).map_err(|error| Failure::Internal(error.into()))?;
            println!("{text}");
        }
        Format::Human => print!("{}", table(states)),
    }
    Ok(())
}
