//! A compiled and built model as processes of this machine, and its inputs and outputs as their bytes.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::{LocalCluster, LocalDevice, LocalLink, RunOptions};
use crate::bundle::cargo::BuiltDevice;
use crate::bundle::identity;
use crate::config::{System, Transport};
use crate::data::{self, Arrays};
use crate::driver::Compiled;
use crate::emit::model::peers;
use crate::graph::{Graph, TensorId, Value};
use crate::program::PORT_ALIGNMENT_BYTES;

/// Emulated boards are slow: an answer may take this long.
const DEADLINE: Duration = Duration::from_secs(300);

/// What is special about a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalOptions<'a> {
    /// Program that starts each device, see [`RunOptions::launcher`].
    pub launcher: Option<&'a Path>,
    /// Devices time every step.
    pub profile: bool,
    /// Devices give up on a silent peer after this time; by default after their own.
    pub silence: Option<Duration>,
}

/// Starts every device of the plan as a local process.
pub fn start(compiled: &Compiled, built: &[BuiltDevice], wanted: LocalOptions<'_>) -> anyhow::Result<LocalCluster> {
    let cluster = &compiled.cluster;
    let devices = compiled
        .routed
        .placed
        .programs
        .iter()
        .zip(built)
        .enumerate()
        .map(|(position, (program, built))| {
            let device = &cluster.devices[program.device];
            let links = peers(&compiled.device_programs(position), compiled.routed.choices.as_ref(), program.device)
                .into_iter()
                .map(|peer| LocalLink {
                    peer,
                    peer_name: cluster.devices[peer].name.clone(),
                    transport: cluster.link(program.device, peer).map_or(Transport::Tcp, |link| link.transport),
                })
                .collect();
            let busy = compiled.device_programs(position).iter().map(|program| !program.steps.is_empty()).collect();
            LocalDevice {
                name: device.name.clone(),
                index: program.device,
                binary: built.binary.clone(),
                address: device.address.clone(),
                firmware: device.target.system == System::CortexM,
                emulator: device.target.emulator.as_ref().map(|emulator| emulator.command.clone()),
                links,
                holds_input: !program.inputs.is_empty(),
                holds_output: !program.outputs.is_empty(),
                busy,
            }
        })
        .collect::<Vec<_>>();
    let launcher = wanted.launcher.map(std::path::absolute).transpose()?;
    let options = RunOptions {
        plan_hash: compiled.plan_hash,
        deadline: DEADLINE,
        launcher,
        profile: wanted.profile,
        silence: wanted.silence,
        several_routes: compiled.routed.choices.is_some(),
        secure: identity::is_needed(compiled),
    };
    Ok(LocalCluster::start(&devices, &options)?)
}

/// Values as the bytes of a device's input region.
pub fn pack(graph: &Graph, tensors: &[TensorId], values: &[Value]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (tensor, value) in tensors.iter().zip(values) {
        bytes.resize(bytes.len().next_multiple_of(PORT_ALIGNMENT_BYTES), 0);
        let tensor = graph.tensor(*tensor);
        bytes.extend(data::to_bytes(value, &tensor.tensor_type).with_context(|| format!("input `{}`", tensor.name))?);
    }
    Ok(bytes)
}

/// The outputs that the caller is given, from the bytes of a device's output region.
pub fn unpack(graph: &Graph, bytes: &[u8]) -> anyhow::Result<Arrays> {
    let mut first = 0usize;
    graph
        .returned_outputs()
        .iter()
        .map(|output| {
            let tensor = graph.tensor(*output);
            first = first.next_multiple_of(PORT_ALIGNMENT_BYTES);
            let end = first + tensor.tensor_type.size_bytes();
            let part = bytes.get(first..end).context("the answer is shorter than the model's outputs")?;
            first = end;
            Ok((tensor.name.clone(), data::from_bytes(part, &tensor.tensor_type)?))
        })
        .collect()
}
